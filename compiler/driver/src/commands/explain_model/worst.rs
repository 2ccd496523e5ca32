//! Which layers come first: those that lose or cost most.

use lacuna_driver::report;

use super::layer::{View, form, noise};
use crate::cli::SortLayers;
use lacuna_driver::selection;

/// Layers that the report opens with, unless the command line says how many.
const N_WORST: usize = 5;

/// The numbers of all layers, the worst first by `key`; of equals the first in order of execution.
pub(super) fn order(view: &View<'_>, key: SortLayers) -> Vec<usize> {
    let mut order: Vec<usize> = (0..view.survey.sites.len()).collect();
    let measure = |number: usize| {
        let site = &view.survey.sites[number];
        let own = &site.candidates[view.choice[number]];
        match key {
            SortLayers::Order => 0.0,
            SortLayers::Noise => own.error,
            SortLayers::Local => own.local_error,
            SortLayers::Cycles => own.cycles,
            SortLayers::Bytes => view.weight_bytes(number, view.choice[number]) as f64,
            SortLayers::Macs => site.macs as f64,
        }
    };
    order.sort_by(|&a, &b| measure(b).total_cmp(&measure(a)));
    order
}

/// By what layers are compared unless the command line says: noise, or cycles where nothing is rounded.
pub(super) fn default_key(view: &View<'_>) -> SortLayers {
    let is_noisy = |(site, &at): (&lacuna_optimize::Site, &usize)| site.candidates[at].error > 0.0;
    let any = view.survey.sites.iter().zip(view.choice).any(is_noisy);
    if any { SortLayers::Noise } else { SortLayers::Cycles }
}

/// The table that the report opens with.
pub(super) fn table(view: &View<'_>, key: SortLayers, top: Option<usize>) -> String {
    let all: f64 =
        (0..view.survey.sites.len()).map(|n| view.survey.sites[n].candidates[view.choice[n]].cycles).sum();
    let rows = order(view, key).into_iter().take(top.unwrap_or(N_WORST)).map(|number| {
        let site = &view.survey.sites[number];
        let own = &site.candidates[view.choice[number]];
        let [weights, activations] = selection::weights_first(own.formats, site.constant);
        [
            (number + 1).to_string(),
            view.nodes(&site.origins).first().map_or_else(String::new, |name| (*name).to_owned()),
            format!("{weights} {}, {activations}", form(own)),
            noise(own.error),
            noise(own.local_error),
            format!("{:.0}", own.cycles),
            format!("{:.1}%", 100.0 * own.cycles / all.max(1.0)),
            report::bytes(view.weight_bytes(number, view.choice[number])),
        ]
    });
    let header = ["layer", "node", "formats", "noise at output", "of its own", "cycles", "share", "weights"];
    let table = report::table(header, rows, &[0, 3, 4, 5, 6, 7]);
    format!("\n{}\n{table}", key.title())
}
