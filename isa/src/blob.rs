//! Bytes with shared ownership, so that weights are mapped once and never copied.

use std::fmt;
use std::sync::{Arc, OnceLock};

/// A heap buffer, part of a memory-mapped file, other blobs interleaved, or what a function computes. Cloning copies no bytes.
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
    Computed(Arc<Computed>),
}

/// Blobs whose bytes take turns.
struct Interleaved {
    parts: Vec<Blob>,
    n_rounds: usize,
    whole: OnceLock<Vec<u8>>,
}

/// Writes bytes from an offset on, as many as there is room for.
type Fill = dyn Fn(usize, &mut [u8]) + Send + Sync;

/// Bytes that a function writes when they are asked for.
struct Computed {
    len: usize,
    unit: usize,
    fill: Box<Fill>,
    whole: OnceLock<Vec<u8>>,
}

impl Default for Blob {
    /// No bytes.
    fn default() -> Blob {
        Blob::new([])
    }
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

    /// `len` bytes that `fill` writes: those from an offset on, as many as there is room for, in whole units of `unit` bytes. All are
    /// computed and kept when [`Blob::bytes`] first asks for them; [`Blob::read`] computes no more than it needs.
    ///
    /// # Panics
    /// If `len` is no multiple of `unit`.
    pub fn computed(
        len: usize,
        unit: usize,
        fill: impl Fn(usize, &mut [u8]) + Send + Sync + 'static,
    ) -> Blob {
        assert!(len.is_multiple_of(unit), "the last unit is not whole");
        let computed = Computed { len, unit, fill: Box::new(fill), whole: OnceLock::new() };
        Blob { owner: Owner::Computed(Arc::new(computed)), offset: 0, len }
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
            Owner::Computed(computed) => computed.whole.get_or_init(|| computed.filled()),
        };
        &all[self.offset..self.offset + self.len]
    }

    /// The same bytes, computed now if [`Blob::computed`] made them: what is made from them does not hold on to a chain
    /// of such blobs.
    pub fn settled(self) -> Blob {
        match &self.owner {
            Owner::Computed(computed) if computed.whole.get().is_none() && self.len == computed.len => {
                Blob::new(computed.filled())
            }
            Owner::Computed(_) => Blob::new(self.bytes().to_vec()),
            Owner::Whole(_) | Owner::Parts(_) => self,
        }
    }

    /// The bytes from `offset` on, `len` of them: from where they lie, or computed into `scratch`.
    ///
    /// # Panics
    /// If they reach beyond the end.
    pub fn read<'a>(&'a self, offset: usize, len: usize, scratch: &'a mut Vec<u8>) -> &'a [u8] {
        if let Owner::Computed(computed) = &self.owner
            && computed.whole.get().is_none()
            && (self.offset + offset).is_multiple_of(computed.unit)
            && len.is_multiple_of(computed.unit)
        {
            assert!(offset + len <= self.len, "bytes beyond the end");
            scratch.resize(len, 0);
            (computed.fill)(self.offset + offset, scratch);
            return scratch;
        }
        &self.bytes()[offset..offset + len]
    }

    /// The blobs that this one interleaves, and in how many rounds: itself alone unless [`Blob::interleaved`] made it.
    pub fn parts(&self) -> (&[Blob], usize) {
        match &self.owner {
            Owner::Parts(of) if self.offset == 0 && self.len == of.len() => (&of.parts, of.n_rounds),
            Owner::Parts(_) | Owner::Whole(_) | Owner::Computed(_) => (std::slice::from_ref(self), 1),
        }
    }
}

impl Interleaved {
    fn len(&self) -> usize {
        self.parts.iter().map(Blob::len).sum()
    }

    fn copied(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len());
        let mut scratch = Vec::new();
        for (round, part) in (0..self.n_rounds).flat_map(|r| self.parts.iter().map(move |p| (r, p))) {
            let n = part.len / self.n_rounds;
            out.extend_from_slice(part.read(round * n, n, &mut scratch));
        }
        out
    }
}

impl Computed {
    fn filled(&self) -> Vec<u8> {
        let mut out = vec![0; self.len];
        (self.fill)(0, &mut out);
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn what_is_computed_is_computed_once() {
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        let blob = Blob::computed(8, 2, move |at, out| {
            counter.fetch_add(out.len(), Ordering::Relaxed);
            out.iter_mut().zip(at..).for_each(|(byte, n)| *byte = n as u8);
        });
        let mut scratch = vec![9; 3];
        assert_eq!(blob.slice(2, 6).unwrap().read(2, 2, &mut scratch), [4, 5]);
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        // Half a unit cannot be computed alone.
        assert_eq!(blob.read(3, 2, &mut scratch), [3, 4]);
        assert_eq!(blob.bytes(), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(blob.read(4, 4, &mut scratch), [4, 5, 6, 7]);
        assert_eq!(asked.load(Ordering::Relaxed), 10);
        let rows = Blob::interleaved(vec![blob.clone(), blob], 4);
        assert_eq!(rows.bytes(), [0, 1, 0, 1, 2, 3, 2, 3, 4, 5, 4, 5, 6, 7, 6, 7]);
    }

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
