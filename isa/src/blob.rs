//! Bytes with shared ownership, so that weights are mapped once and never copied.

use std::fmt;
use std::sync::Arc;

/// A heap buffer or part of a memory-mapped file. Cloning copies no bytes.
#[derive(Clone)]
pub struct Blob {
    owner: Arc<dyn AsRef<[u8]> + Send + Sync>,
    offset: usize,
    len: usize,
}

impl Blob {
    /// All bytes of `owner`.
    pub fn new(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Blob {
        let len = owner.as_ref().len();
        Blob { owner: Arc::new(owner), offset: 0, len }
    }

    /// A part of this blob; `None` when it reaches beyond the end.
    pub fn slice(&self, offset: usize, len: usize) -> Option<Blob> {
        (offset.checked_add(len)? <= self.len).then(|| Blob {
            owner: Arc::clone(&self.owner),
            offset: self.offset + offset,
            len,
        })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.offset..self.offset + self.len]
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.len)
    }
}

impl PartialEq for Blob {
    fn eq(&self, other: &Blob) -> bool {
        self.bytes() == other.bytes()
    }
}
