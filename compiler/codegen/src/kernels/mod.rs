//! Kernels by family: each turns one fusion group into a stream.

pub mod attention;
pub mod attention_plan;
pub mod attention_programs;
pub mod carry;
pub mod dots;
pub mod fill;
pub mod gather;
pub mod map;
pub mod norm;
pub mod problem;
pub mod product;
pub mod product_tiles;
pub mod quantize;
pub mod reduce;
pub mod rows;
pub mod scan;
pub mod space;
