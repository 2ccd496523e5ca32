//! The energy of a profile: by kind of action, and as power beside the target's design power.

use lacuna_isa::energy::EnergyByAction;
use lacuna_isa::target::Target;
use lacuna_runtime::profile::Profile;
use serde_json::{Map, Value, json};

use lacuna_driver::report;

/// Why a target may have no energies.
pub(super) const NO_TABLE: &str = "no table of energies: none of a published node and memory fits";

/// `None` where the target has no table of energies.
pub(super) fn known(sum: f64, target: &Target) -> Option<f64> {
    target.energy.is_some().then_some(sum)
}

/// Picojoules by kind of action; null where the target has no table of energies.
pub(super) fn by_action(energy: &EnergyByAction, target: &Target) -> Value {
    if target.energy.is_none() {
        return Value::Null;
    }
    let parts: Map<String, Value> =
        energy.parts().into_iter().map(|(name, pj)| (name.to_owned(), json!(pj))).collect();
    Value::Object(parts)
}

/// Average watts; `None` where the target has no table of energies, or over no cycles.
pub(super) fn watts(energy_pj: f64, cycles: u64, target: &Target) -> Option<f64> {
    target.average_power(energy_pj, cycles).map(|power| power.modelled_w)
}

/// The run when it draws more on average than the target's design power, and the launch that draws most when it does.
pub(super) fn power_warnings(profile: &Profile, target: &Target) -> Vec<String> {
    let whole = target.average_power(profile.energy_pj, profile.cycles);
    let launches = profile.launches.iter().filter_map(|launch| {
        let power = target.average_power(launch.energy_pj, launch.end - launch.start)?;
        power.is_over().then_some((launch, power))
    });
    let mut warnings: Vec<String> =
        whole.iter().filter(|power| power.is_over()).map(|power| format!("power: {power}")).collect();
    let over = launches.clone().count();
    if let Some((launch, power)) = launches.max_by(|a, b| a.1.modelled_w.total_cmp(&b.1.modelled_w)) {
        let others = if over > 1 { format!(", the most of {over} launches") } else { String::new() };
        warnings.push(format!("power of launch `{}`{others}: {power}", launch.kernel));
    }
    warnings
}

/// Energy and power of a profile for people.
pub(super) fn text(profile: &Profile, target: &Target) -> String {
    let Some(table) = &target.energy else {
        return format!("energy not known: {} has {NO_TABLE}\n", target.name);
    };
    let total = profile.energy_pj;
    let parts = profile.energy.parts().into_iter();
    let rows = parts.filter(|(_, pj)| *pj > 0.0).map(|(name, pj)| {
        [name.to_owned(), format!("{:.3}", pj / 1e6), format!("{:.1}%", 100.0 * pj / total)]
    });
    let power = watts(total, profile.cycles, target).unwrap_or(0.0);
    format!(
        "energy {:.3} uJ by a table of {} nm, {power:.1} W on average; design power {} W\n\n{}",
        total / 1e6,
        table.node_nm,
        target.tdp_w,
        report::table(["energy", "uJ", "share"], rows, &[1, 2])
    )
}
