//! What a founder may set otherwise than the default.

use clap::Args;
use shoal_protocol::parameters::{Parameters, Rate};

use crate::commands::units::{milliseconds, per_second};

/// What a network may set otherwise than the default.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Parameters")]
pub(super) struct Scale {
    /// Length of an epoch. Sets --skew to a tenth of it, if that is not given.
    #[arg(long, value_parser = milliseconds, value_name = "TIME")]
    epoch: Option<u64>,
    /// Skew tolerance.
    #[arg(long, value_parser = milliseconds, value_name = "TIME")]
    skew: Option<u64>,
    /// Mean mixing delay per hop.
    #[arg(long, value_parser = milliseconds, value_name = "TIME")]
    mean_delay: Option<u64>,
    /// Largest mean that the authorities may ever set.
    #[arg(long, value_parser = milliseconds, value_name = "TIME")]
    mean_delay_max: Option<u64>,
    /// λ_P of normal clients, per second.
    #[arg(long, value_parser = per_second, value_name = "RATE")]
    lambda_p: Option<Rate>,
    /// λ_L of normal clients, per second.
    #[arg(long, value_parser = per_second, value_name = "RATE")]
    lambda_l: Option<Rate>,
    /// λ_P + λ_L of low-rate clients, per second.
    #[arg(long, value_parser = per_second, value_name = "RATE")]
    lambda_low: Option<Rate>,
    /// λ_M of node loops, per second.
    #[arg(long, value_parser = per_second, value_name = "RATE")]
    lambda_m: Option<Rate>,
    /// Service time of couriers.
    #[arg(long, value_parser = milliseconds, value_name = "TIME")]
    service: Option<u64>,
    /// Answer time of replicas.
    #[arg(long, value_parser = milliseconds, value_name = "TIME")]
    answer: Option<u64>,
    /// Frames per second between two stores.
    #[arg(long, value_parser = per_second, value_name = "RATE")]
    store_rate: Option<Rate>,
    /// Mean gap between polls of an active chain.
    #[arg(long, value_parser = milliseconds, value_name = "TIME")]
    poll_hot: Option<u64>,
    /// Mean gap between polls of a chain that was active lately.
    #[arg(long, value_parser = milliseconds, value_name = "TIME")]
    poll_warm: Option<u64>,
    /// Mean gap between polls of an idle chain.
    #[arg(long, value_parser = milliseconds, value_name = "TIME")]
    poll_idle: Option<u64>,
    /// Mean gap between reads of the own inbox.
    #[arg(long, value_parser = milliseconds, value_name = "TIME")]
    poll_inbox: Option<u64>,
    /// How long stores keep a box.
    #[arg(long, value_parser = milliseconds, value_name = "TIME")]
    retention: Option<u64>,
    /// Epochs between two draws of layers and generations.
    #[arg(long, value_name = "EPOCHS")]
    draw: Option<u32>,
    /// Packets that should wait in every mix on average; 0 switches the floor off.
    #[arg(long, value_name = "N")]
    anonymity_floor: Option<u32>,
    /// Mixes in each layer.
    #[arg(long, value_name = "N")]
    mixes_per_layer: Option<u16>,
    /// Leading zero bits of the proof of work for an empty inbox.
    #[arg(long, value_name = "BITS")]
    append_bits: Option<u8>,
}

impl Scale {
    /// The parameters of `base`, with what is set here.
    pub(super) fn apply(&self, base: Parameters) -> Parameters {
        let mut parameters = base;
        let set = |field: &mut u64, value: Option<u64>| {
            if let Some(value) = value {
                *field = value;
            }
        };
        set(&mut parameters.epoch_ms, self.epoch);
        set(&mut parameters.skew_ms, self.skew.or(self.epoch.map(|epoch| epoch / 10)));
        set(&mut parameters.mean_delay_ms, self.mean_delay);
        set(&mut parameters.service_ms, self.service);
        set(&mut parameters.answer_ms, self.answer);
        set(&mut parameters.poll_hot_ms, self.poll_hot);
        set(&mut parameters.poll_warm_ms, self.poll_warm);
        set(&mut parameters.poll_idle_ms, self.poll_idle);
        set(&mut parameters.poll_inbox_ms, self.poll_inbox);
        set(&mut parameters.retention_ms, self.retention);
        parameters.lambda_p = self.lambda_p.unwrap_or(base.lambda_p);
        parameters.lambda_l = self.lambda_l.unwrap_or(base.lambda_l);
        parameters.lambda_low = self.lambda_low.unwrap_or(base.lambda_low);
        parameters.lambda_m = self.lambda_m.unwrap_or(base.lambda_m);
        parameters.store_rate = self.store_rate.unwrap_or(base.store_rate);
        parameters.draw_epochs = self.draw.unwrap_or(base.draw_epochs);
        parameters.anonymity_floor = self.anonymity_floor.unwrap_or(base.anonymity_floor);
        parameters.mixes_per_layer = self.mixes_per_layer.unwrap_or(base.mixes_per_layer);
        parameters.append_bits = self.append_bits.unwrap_or(base.append_bits);
        // Without a floor nobody ever raises the mean, so nothing larger needs to be waited for.
        let widest = if parameters.anonymity_floor == 0 { parameters.mean_delay_ms } else { base.mean_delay_max_ms };
        parameters.mean_delay_max_ms = self.mean_delay_max.unwrap_or(widest.max(parameters.mean_delay_ms));
        parameters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling_a_production_network_down_is_valid() {
        let scale = Scale {
            epoch: Some(20_000),
            mean_delay: Some(20),
            lambda_p: Some(Rate(10_000)),
            retention: Some(600_000),
            anonymity_floor: Some(0),
            draw: Some(500),
            ..Scale::default()
        };
        let parameters = scale.apply(Parameters::production());
        assert_eq!(parameters.validate(), Ok(()));
        assert_eq!((parameters.skew_ms, parameters.mean_delay_max_ms), (2_000, 20));
    }

    #[test]
    fn the_base_stays_when_nothing_is_given() {
        for base in [Parameters::production(), Parameters::test_network()] {
            assert_eq!(Scale::default().apply(base), base);
        }
    }
}
