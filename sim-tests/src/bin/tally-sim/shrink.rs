//! `shrink`: the fewest faults with which a seed still fails.

use std::collections::BTreeSet;

use crate::child::{Report, Seed};

/// Leaves faults out, half of them, a quarter, … one, for as long as the seed still fails (delta
/// debugging: Zeller and Hildebrandt, 2002). What is left fails, and leaving out any one of it
/// passes. True if the seed passes anyway.
pub(crate) fn shrink(arguments: &Seed) -> Result<bool, String> {
    let whole = arguments.spawn()?;
    if whole.passed() {
        say!("seed {} passes; there is nothing to shrink", arguments.number());
        return Ok(true);
    }
    let mut smallest = whole;
    let mut kept: Vec<usize> = smallest.faults.iter().map(|(number, _)| *number).collect();
    say!("{} faults: {}", kept.len(), first_violation(&smallest));
    let mut chunk = kept.len().div_ceil(2).max(1);
    while !kept.is_empty() {
        let mut left_out_any = false;
        let mut at = 0;
        while at < kept.len() {
            let without: BTreeSet<usize> =
                kept[at..(at + chunk).min(kept.len())].iter().copied().collect();
            let rest: Vec<usize> =
                kept.iter().copied().filter(|number| !without.contains(number)).collect();
            let tried = with_only(arguments, &rest)?;
            if tried.passed() {
                at += chunk;
            } else {
                say!("{} faults: {}", rest.len(), first_violation(&tried));
                kept = rest;
                smallest = tried;
                left_out_any = true;
            }
        }
        if chunk == 1 && !left_out_any {
            break;
        }
        chunk = if left_out_any { chunk } else { (chunk / 2).max(1) };
        chunk = chunk.min(kept.len().max(1));
    }
    say!("\nthe fewest faults with which it still fails:");
    for (_, fault) in &smallest.faults {
        say!("  {fault}");
    }
    say!("{}", first_violation(&smallest));
    let only: Vec<String> = kept.iter().map(ToString::to_string).collect();
    say!(
        "\nsee it: tally-sim replay --seed {} --seconds {} --only={}",
        arguments.number(),
        arguments.seconds,
        only.join(",")
    );
    Ok(false)
}

fn with_only(arguments: &Seed, only: &[usize]) -> Result<Report, String> {
    let mut seed = arguments.clone();
    // A number that no fault has stands for none at all.
    seed.only = Some(if only.is_empty() { vec![usize::MAX] } else { only.to_vec() });
    seed.spawn()
}

fn first_violation(report: &Report) -> String {
    report.violations.first().map_or_else(String::new, |violation| {
        format!("{} at {} ms: {}", violation.kind, violation.at_ms, violation.what)
    })
}
