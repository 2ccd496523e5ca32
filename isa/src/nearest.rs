//! The word that was meant where another stands.

/// The candidate nearest to `word` by edits, when it is near enough to be meant.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let limit = (word.chars().count() / 2).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (edits(word, candidate), candidate))
        .filter(|(n, _)| *n <= limit)
        .min()
        .map(|(_, candidate)| format!("did you mean `{candidate}`?"))
}

/// Damerau-Levenshtein distance: two neighbours exchanged are one slip.
fn edits(a: &str, b: &str) -> usize {
    // Words of an assembly text are short; what is longer is no slip of a finger.
    if a.len() > 40 {
        return usize::MAX;
    }
    strsim::damerau_levenshtein(a, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        let check = |a: &str, b: &str, expect: usize| assert_eq!(edits(a, b), expect, "{a} {b}");
        check("", "abc", 3);
        check("zreo", "zero", 1);
        check("mvoe", "move", 1);
        check("drain", "drain", 0);
        check("ld", "st", 2);
    }
}
