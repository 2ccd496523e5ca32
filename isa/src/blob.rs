//! Bytes with shared ownership, so that weights are mapped once and never copied.

use std::fmt;
use std::sync::{Arc, OnceLock};

/// A heap buffer, part of a memory-mapped file, or other blobs interleaved. Cloning copies no bytes.
#[derive(Clone)]
pub struct Blob {
    owner: Owner,
    offset: usize,
    len: usize,
}

#[derive(Clone)]
enum Owner {
    Whole(Arc<dyn AsRef<[u8]> + Send + Sync>),
    Parts(Arc<Interleaved>),
}

/// Blobs whose bytes take turns.
struct Interleaved {
    parts: Vec<Blob>,
    n_rounds: usize,
    whole: OnceLock<Vec<u8>>,
}

impl Blob {
    /// All bytes of `owner`.
    pub fn new(owner: impl AsRef<[u8]> + Send + Sync + 'static) -> Blob {
        let len = owner.as_ref().len();
        Blob { owner: Owner::Whole(Arc::new(owner)), offset: 0, len }
    }

    /// Blobs that take turns: in each of `n_rounds` rounds every part gives its next `len / n_rounds` bytes. With a single round
    /// they follow one another; with one for each row they stand side by side. Bytes are copied when [`Blob::bytes`] first
    /// asks for them, and never if only [`Blob::parts`] does.
    ///
    /// # Panics
    /// If the length of a part is no multiple of `n_rounds`.
    pub fn interleaved(parts: Vec<Blob>, n_rounds: usize) -> Blob {
        assert!(parts.iter().all(|p| p.len.is_multiple_of(n_rounds)), "a part has no whole rounds");
        let len = parts.iter().map(Blob::len).sum();
        Blob {
            owner: Owner::Parts(Arc::new(Interleaved { parts, n_rounds, whole: OnceLock::new() })),
            offset: 0,
            len,
        }
    }

    /// A part of this blob; `None` when it reaches beyond the end.
    pub fn slice(&self, offset: usize, len: usize) -> Option<Blob> {
        (offset.checked_add(len)? <= self.len).then(|| Blob {
            owner: self.owner.clone(),
            offset: self.offset + offset,
            len,
        })
    }

    /// The number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        let all = match &self.owner {
            Owner::Whole(owner) => (**owner).as_ref(),
            Owner::Parts(interleaved) => interleaved.whole.get_or_init(|| interleaved.copied()),
        };
        &all[self.offset..self.offset + self.len]
    }

    /// The blobs that this one interleaves, and in how many rounds: itself alone unless [`Blob::interleaved`] made it.
    pub fn parts(&self) -> (&[Blob], usize) {
        match &self.owner {
            Owner::Parts(of) if self.offset == 0 && self.len == of.len() => (&of.parts, of.n_rounds),
            Owner::Parts(_) | Owner::Whole(_) => (std::slice::from_ref(self), 1),
        }
    }
}

impl Interleaved {
    fn len(&self) -> usize {
        self.parts.iter().map(Blob::len).sum()
    }

    fn copied(&self) -> Vec<u8> {
        let parts: Vec<(&[u8], usize)> =
            self.parts.iter().map(|p| (p.bytes(), p.len / self.n_rounds)).collect();
        let mut out = Vec::with_capacity(self.len());
        for round in 0..self.n_rounds {
            for &(bytes, n) in &parts {
                out.extend_from_slice(&bytes[round * n..(round + 1) * n]);
            }
        }
        out
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_take_turns() {
        let parts = vec![Blob::new(vec![1, 2, 5, 6]), Blob::new(vec![3, 7]), Blob::new(Vec::new())];
        let rows = Blob::interleaved(parts.clone(), 2);
        assert_eq!((rows.len(), rows.parts()), (6, (&parts[..], 2)));
        assert_eq!(rows.bytes(), [1, 2, 3, 5, 6, 7]);
        let part = rows.slice(1, 3).unwrap();
        assert_eq!((part.bytes(), part.parts()), (&[2, 3, 5][..], (&[part.clone()][..], 1)));
        assert_eq!(rows.slice(4, 3), None);
        let nested = Blob::interleaved(vec![rows.clone(), rows], 1);
        assert_eq!(nested.bytes(), [1, 2, 3, 5, 6, 7, 1, 2, 3, 5, 6, 7]);
        assert!(Blob::interleaved(Vec::new(), 3).is_empty());
    }
}
