//! The memory of the computer that this runs on.

use std::fs;

use crate::codes;
use crate::diagnostics::Diagnostic;
use crate::report;

/// Refuses work that needs more memory than is free, where the system says how much that is.
///
/// # Errors
/// L0024.
pub fn has_room_for(what: &str, needed: u64) -> Result<(), Diagnostic> {
    match free_bytes() {
        Some(free) if needed > free => {
            let reason =
                format!("{what} needs {}, and {} are free", report::bytes(needed), report::bytes(free));
            Err(Diagnostic::new(codes::HOST_MEMORY, reason).hint("choose smaller dimensions with --dim"))
        }
        Some(_) | None => Ok(()),
    }
}

/// Bytes that can be taken: memory without what can be dropped, and swap.
fn free_bytes() -> Option<u64> {
    parse(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse(meminfo: &str) -> Option<u64> {
    let field = |name: &str| -> Option<u64> {
        let rest = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(field("MemAvailable:")?.saturating_add(field("SwapFree:").unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_swap_are_added() {
        let text = "MemTotal:       100 kB\nMemAvailable:    60 kB\nSwapFree:  4 kB\n";
        assert_eq!(parse(text), Some(64 * 1024));
        assert_eq!(parse("MemTotal:       100 kB\n"), None);
        assert!(has_room_for("nothing", 0).is_ok());
    }
}
