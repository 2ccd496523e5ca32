//! `lacuna explain --rules`: every rewrite rule, in which sense it is exact, and what it may change.

use lacuna_optimize::{RuleClass, RuleInfo, rule_table};
use serde_json::{Value, json};

use lacuna_driver::report::Report;

/// What a user must know before the table.
const INTRODUCTION: &str = "\
# Exactness

<!-- Written by `cargo xtask docs` from the table of rules. -->

The compiler rewrites a model before it generates code. This page says what that may change in the numbers that the model computes, and
what it never changes. `lacuna explain MODEL` lists the rewrites of one model, `lacuna explain --rules` prints this table.

- **Element-wise work keeps its bits.** Each operator rounds to its own type, in f16 and bf16 as in f32, and no two of them become one:
  a quotient stays a quotient, unless it is by a power of two whose reciprocal is exact; a large number that is added and subtracted rounds what is
  between; infinity and NaN times zero are NaN; what overflows in the model overflows in the program. Functions such as `exp` are
  those of [Numerics](numerics.md).
- **Sums may be ordered and rounded otherwise**: those of contractions, reductions, norms, softmax and attention, which are recognised from their
  parts. Finite factors and biases next to a contraction by constant weights become part of these, unless a weight would overflow or lose bits below the
  normal numbers. A quotient behind a contraction, or a factor that is no power of two, stays where floor, ceil, round, a cast to integers or
  a comparison follows (for a factor, another than with zero). In f16, where sums overflow early, no factor moves, and neither norms nor softmax are recognised from their parts.
- **A zero makes the terms of a contraction vanish** that it is a factor of, also where the other factor is infinite or NaN: zeros of
  weights that are not stored, channels that are zero, rows that a mask leaves out ([Zeros](zeros.md)). The sum of the others is what it was.
- **`--relaxed`** allows more: element-wise work is rewritten by what holds over the real numbers.
- Narrow formats (`--precision`) round operands of contractions on top of all this, and are no matter of rules.

";

/// Every rule as text, or as a page of the manual.
pub fn run(markdown: bool) -> Report {
    let rules = rule_table();
    let mut text = if markdown { INTRODUCTION.to_owned() } else { String::new() };
    for class in RuleClass::ALL {
        let own: Vec<&RuleInfo> = rules.iter().filter(|r| r.class == class).collect();
        if markdown {
            text += &format!("## {class}: {}\n\n", class.promise());
            text += &page(class, &own);
        } else {
            text += &format!("{class}: {}\n", class.promise());
            for rule in own {
                text += &format!("  {:<36}{} => {}\n", rule.name, rule.before, rule.after);
                if !rule.may_change.is_empty() {
                    text += &format!("  {:<36}may change {}\n", "", rule.may_change);
                }
            }
        }
    }
    let row = |r: &RuleInfo| {
        json!({
            "rule": r.name,
            "class": r.class.to_string(),
            "before": r.before,
            "after": r.after,
            "may_change": r.may_change,
        })
    };
    Report::new(
        text.trim_end().to_owned() + "\n",
        json!({ "ok": true, "rules": rules.iter().map(row).collect::<Vec<Value>>() }),
    )
}

/// The rules of a class: what each may change, or their names where that is nothing.
fn page(class: RuleClass, rules: &[&RuleInfo]) -> String {
    if class == RuleClass::E0 {
        let names: Vec<String> = rules.iter().map(|r| format!("`{}`", r.name)).collect();
        return format!("{}.\n\n", names.join(", "));
    }
    let mut text = "| rule | replaces | by | may change |\n|---|---|---|---|\n".to_owned();
    for rule in rules {
        text +=
            &format!("| `{}` | `{}` | `{}` | {} |\n", rule.name, rule.before, rule.after, rule.may_change);
    }
    text + "\n"
}
