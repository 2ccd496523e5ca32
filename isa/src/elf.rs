//! The object file: ELF64, little endian.
//!
//! The file opens with the ELF header and, at a fixed place behind it, the section `.lacuna.note`: an ELF note that holds the
//! format version, the length of the file and a BLAKE3 hash of all its other bytes. So truncation, foreign files, other
//! versions and damage are told apart before anything else is read. Tables follow, then `.weights` at a multiple of
//! 4096 bytes. The bytes are a function of the object alone.

use object::elf::{self, ET_NONE, FileHeader64, SHT_NOTE, SHT_PROGBITS};
use object::read::elf::{FileHeader as _, SectionHeader as _};
use object::write::elf::{FileHeader, SectionHeader, Writer};
use object::{Endianness, LittleEndian};

use crate::blob::Blob;
use crate::object::{Object, ObjectOrigin};
pub use crate::wire::Unwritable;
use crate::wire::{Section, TableSections, Tables, Wire, WireError};

/// Version of the object format that this build writes and reads.
pub const FORMAT_VERSION: u32 = 2;
/// Alignment of the weights in the file, in bytes.
pub const WEIGHTS_ALIGN: u64 = 4096;

const NOTE: &str = ".lacuna.note";
const KERNELS: &str = ".lacuna.kernels";
const STREAMS: &str = ".lacuna.streams";
const VIEWS: &str = ".lacuna.views";
const PROGRAMS: &str = ".lacuna.programs";
const ENTRIES: &str = ".lacuna.entries";
const ORIGINS: &str = ".lacuna.origins";
const TARGET: &str = ".lacuna.target";
const WEIGHTS: &str = ".weights";

const ELF_HEADER_BYTES: usize = 64;
const NOTE_OFFSET: usize = ELF_HEADER_BYTES;
/// Name size, description size, type, then the padded name.
const NOTE_HEAD: [u8; 20] = *b"\x07\0\0\0\x30\0\0\0\x01\0\0\0Lacuna\0\0";
const VERSION_OFFSET: usize = NOTE_OFFSET + NOTE_HEAD.len();
const LENGTH_OFFSET: usize = VERSION_OFFSET + 8;
const HASH_OFFSET: usize = LENGTH_OFFSET + 8;
const HASH_BYTES: usize = 32;
const NOTE_END: usize = HASH_OFFSET + HASH_BYTES;
const TABLE_ALIGN: u64 = 16;

/// Why an object cannot be written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the object cannot be written: {0}")]
pub struct WriteError(pub Unwritable);

/// Why bytes are no object of this build.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReadError {
    /// The file does not start as an ELF file.
    #[error("not an ELF file")]
    NotElf,
    /// An ELF file of something else.
    #[error("an ELF file, but not a Lacuna object")]
    NotLacuna,
    /// An object of another format version.
    #[error("a Lacuna object of format version {found}; this build reads version {FORMAT_VERSION}")]
    Version {
        /// The file's version.
        found: u32,
    },
    /// The file ends early.
    #[error("truncated: {actual} of {expected} bytes")]
    Truncated {
        /// Bytes that the file should have (at least).
        expected: u64,
        /// Bytes that it has.
        actual: u64,
    },
    /// The bytes changed after they were written.
    #[error("corrupted: the hash of the contents does not match")]
    Corrupted,
    /// A section has an impossible form.
    #[error("malformed section `{section}` at byte {offset}: {message}")]
    Malformed {
        /// Name of the section, or `ELF` for the file's own structure.
        section: &'static str,
        /// Bytes from the section's start.
        offset: usize,
        /// What is wrong.
        message: String,
    },
    /// Well-formed tables that contradict one another.
    #[error("invalid object: {}", .0.join("; "))]
    Invalid(Vec<String>),
}

/// The hash of a file: BLAKE3 of every byte outside the hash field.
fn hash(bytes: &[u8]) -> [u8; HASH_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(bytes.get(..HASH_OFFSET).unwrap_or(bytes));
    hasher.update(bytes.get(NOTE_END..).unwrap_or_default());
    *hasher.finalize().as_bytes()
}

/// Sets length and hash of a file to what its bytes say; used by the writer, and by tests that damage files on purpose.
fn seal(bytes: &mut [u8]) {
    let len = bytes.len() as u64;
    bytes[LENGTH_OFFSET..HASH_OFFSET].copy_from_slice(&len.to_le_bytes());
    let hash = hash(bytes);
    bytes[HASH_OFFSET..NOTE_END].copy_from_slice(&hash);
}

impl Object {
    /// The object file. The same object gives the same bytes.
    ///
    /// # Errors
    /// When a value does not fit its place in the file (see [`Inst::encode`](crate::inst::Inst::encode)).
    pub fn write(&self) -> Result<Vec<u8>, WriteError> {
        let Object {
            name,
            target,
            target_file,
            kernels,
            entries,
            states,
            origins,
            hbm_bytes,
            sram_bytes,
            weights,
        } = self;
        let tables = Tables::encode(kernels, entries).map_err(WriteError)?;
        let mut origin_bytes = Vec::new();
        origins.put(&mut origin_bytes).map_err(WriteError)?;
        let mut target_bytes = Vec::new();
        target.put(&mut target_bytes).map_err(WriteError)?;
        name.put(&mut target_bytes).map_err(WriteError)?;
        hbm_bytes.put(&mut target_bytes).map_err(WriteError)?;
        sram_bytes.put(&mut target_bytes).map_err(WriteError)?;
        // What is empty takes no bytes, from the end.
        if !target_file.is_empty() || !states.is_empty() {
            target_file.put(&mut target_bytes).map_err(WriteError)?;
        }
        if !states.is_empty() {
            states.put(&mut target_bytes).map_err(WriteError)?;
        }
        let mut note = NOTE_HEAD.to_vec();
        note.extend_from_slice(&FORMAT_VERSION.to_le_bytes());
        note.resize(NOTE_END - NOTE_OFFSET, 0);

        let sections: [(&str, &[u8], u64); 9] = [
            (NOTE, &note, 4),
            (TARGET, &target_bytes, TABLE_ALIGN),
            (KERNELS, &tables.kernels, TABLE_ALIGN),
            (VIEWS, &tables.views, TABLE_ALIGN),
            (PROGRAMS, &tables.programs, TABLE_ALIGN),
            (STREAMS, &tables.streams, TABLE_ALIGN),
            (ENTRIES, &tables.entries, TABLE_ALIGN),
            (ORIGINS, &origin_bytes, TABLE_ALIGN),
            (WEIGHTS, weights.bytes(), WEIGHTS_ALIGN),
        ];
        let mut bytes = Vec::new();
        write_elf(&sections, &mut bytes).map_err(|e| WriteError(Unwritable::Container(e.to_string())))?;
        seal(&mut bytes);
        Ok(bytes)
    }

    /// The object in these bytes. The weights stay where they are: they are a slice of `blob`.
    ///
    /// # Errors
    /// On anything but an unharmed object of this build's format version; on an object that
    /// [`Object::validate`] finds fault with. No input panics.
    pub fn read(blob: &Blob) -> Result<Object, ReadError> {
        let object = Object::read_unvalidated(blob)?;
        let faults = object.validate();
        if faults.is_empty() { Ok(object) } else { Err(ReadError::Invalid(faults)) }
    }

    /// Like [`Object::read`], without [`Object::validate`]: for tools that show objects and run nothing.
    ///
    /// # Errors
    /// On anything but an unharmed object of this build's format version.
    pub fn read_unvalidated(blob: &Blob) -> Result<Object, ReadError> {
        let bytes = blob.bytes();
        check_note(bytes)?;
        let file = Sections::find(bytes)?;
        let malformed =
            |(section, WireError { offset, message })| ReadError::Malformed { section, offset, message };

        let mut target_section = file.section(TARGET)?;
        let target = target_section.get().map_err(malformed)?;
        let name = target_section.get().map_err(malformed)?;
        let hbm_bytes = target_section.get().map_err(malformed)?;
        let sram_bytes = target_section.get().map_err(malformed)?;
        let shipped = target_section.input.remaining() == 0;
        let target_file = if shipped { String::new() } else { target_section.get().map_err(malformed)? };
        let stateless = target_section.input.remaining() == 0;
        let states = if stateless { Vec::new() } else { target_section.get().map_err(malformed)? };
        target_section.finish().map_err(malformed)?;

        let mut origin_section = file.section(ORIGINS)?;
        let origins: Vec<ObjectOrigin> = origin_section.get().map_err(malformed)?;
        origin_section.finish().map_err(malformed)?;

        let (kernels, entries) = TableSections {
            kernels: file.section(KERNELS)?,
            streams: file.section(STREAMS)?,
            views: file.section(VIEWS)?,
            programs: file.section(PROGRAMS)?,
            entries: file.section(ENTRIES)?,
        }
        .decode()
        .map_err(malformed)?;

        let (offset, len) = file.range(WEIGHTS)?;
        let weights = usize::try_from(offset)
            .ok()
            .zip(usize::try_from(len).ok())
            .and_then(|(offset, len)| blob.slice(offset, len))
            .ok_or_else(|| elf_fault("the weights lie outside the file"))?;
        Ok(Object {
            name,
            target,
            target_file,
            kernels,
            entries,
            states,
            origins,
            hbm_bytes,
            sram_bytes,
            weights,
        })
    }
}

fn elf_fault(message: impl Into<String>) -> ReadError {
    ReadError::Malformed { section: "ELF", offset: 0, message: message.into() }
}

/// Checks what comes before the sections: ELF, note, version, length, hash.
fn check_note(bytes: &[u8]) -> Result<(), ReadError> {
    let magic = &bytes[..bytes.len().min(4)];
    if magic.is_empty() || magic != &elf::ELFMAG[..magic.len()] {
        return Err(ReadError::NotElf);
    }
    let actual = bytes.len() as u64;
    let head = &bytes[..bytes.len().min(VERSION_OFFSET)];
    if let Some(note) = head.get(NOTE_OFFSET..)
        && note != &NOTE_HEAD[..note.len()]
    {
        return Err(ReadError::NotLacuna);
    }
    if bytes.len() < NOTE_END {
        return Err(ReadError::Truncated { expected: NOTE_END as u64, actual });
    }
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(word)
    };
    // The version is 32 bits, followed by 32 reserved ones that are 0.
    let version = word(VERSION_OFFSET);
    if version as u32 != FORMAT_VERSION {
        return Err(ReadError::Version { found: version as u32 });
    }
    let expected = word(LENGTH_OFFSET);
    if actual < expected {
        return Err(ReadError::Truncated { expected, actual });
    }
    if actual > expected || version >> 32 != 0 || bytes[HASH_OFFSET..NOTE_END] != hash(bytes) {
        return Err(ReadError::Corrupted);
    }
    Ok(())
}

/// The file's sections by name.
struct Sections<'a> {
    bytes: &'a [u8],
    found: Vec<(&'a [u8], u64, u64)>,
}

impl<'a> Sections<'a> {
    fn find(bytes: &'a [u8]) -> Result<Sections<'a>, ReadError> {
        let fault = |e: object::read::Error| elf_fault(e.to_string());
        let header = FileHeader64::<LittleEndian>::parse(bytes).map_err(fault)?;
        let endian = header.endian().map_err(fault)?;
        let table = header.sections(endian, bytes).map_err(fault)?;
        let mut found = Vec::new();
        for section in table.iter() {
            // Section types other than data hold no bytes (or the string table's).
            let Some((offset, size)) = section.file_range(endian) else { continue };
            found.push((table.section_name(endian, section).map_err(fault)?, offset, size));
        }
        Ok(Sections { bytes, found })
    }

    fn range(&self, name: &'static str) -> Result<(u64, u64), ReadError> {
        let mut matches = self.found.iter().filter(|(n, ..)| *n == name.as_bytes());
        match (matches.next(), matches.next()) {
            (Some((_, offset, size)), None) => Ok((*offset, *size)),
            (Some(_), Some(_)) => Err(elf_fault(format!("two sections `{name}`"))),
            (None, _) => Err(elf_fault(format!("no section `{name}`"))),
        }
    }

    fn section(&self, name: &'static str) -> Result<Section<'a>, ReadError> {
        let (offset, size) = self.range(name)?;
        let bytes = usize::try_from(offset)
            .ok()
            .and_then(|offset| self.bytes.get(offset..))
            .zip(usize::try_from(size).ok())
            .and_then(|(rest, size)| rest.get(..size))
            .ok_or_else(|| elf_fault(format!("section `{name}` lies outside the file")))?;
        Ok(Section::new(name, bytes))
    }
}

fn write_elf(sections: &[(&str, &[u8], u64)], bytes: &mut Vec<u8>) -> object::write::Result<()> {
    let mut writer = Writer::new(Endianness::Little, true, bytes);
    writer.reserve_file_header();
    let mut placed = Vec::new();
    for (name, data, align) in sections {
        let id = writer.add_section_name(name.as_bytes());
        writer.reserve_section_index();
        placed.push((id, writer.reserve(data.len() as u64, *align)));
    }
    writer.reserve_shstrtab_section_index();
    writer.reserve_shstrtab()?;
    writer.reserve_section_headers();

    writer.write_file_header(&FileHeader {
        os_abi: elf::ELFOSABI_NONE,
        abi_version: 0,
        e_type: ET_NONE,
        e_machine: elf::EM_NONE,
        e_entry: 0,
        e_flags: elf::FileFlags(0),
    })?;
    for ((_, data, _), (_, offset)) in sections.iter().zip(&placed) {
        writer.pad_until(*offset);
        writer.write(data);
    }
    writer.write_shstrtab();
    writer.write_null_section_header();
    for ((name, data, align), (id, offset)) in sections.iter().zip(&placed) {
        writer.write_section_header(&SectionHeader {
            sh_name: writer.section_name_offset(Some(*id)),
            sh_type: if *name == NOTE { SHT_NOTE } else { SHT_PROGBITS },
            sh_flags: elf::SectionFlags(0),
            sh_addr: 0,
            sh_offset: *offset,
            sh_size: data.len() as u64,
            sh_link: 0,
            sh_info: 0,
            sh_addralign: *align,
            sh_entsize: 0,
        });
    }
    writer.write_shstrtab_section_header();
    Ok(())
}

#[cfg(test)]
#[path = "elf_tests.rs"]
mod tests;
