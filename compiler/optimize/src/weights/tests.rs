//! Laws of the weight techniques.
