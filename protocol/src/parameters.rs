//! Network-wide parameters: every rate and duration that two parties must agree on.
//!
//! They are fixed in the network file at genesis and travel in every consensus. A node or client takes rates and delays
//! from the newest consensus: a party with other rates would stand out, or would break its peers. Only what has to hold
//! before there is a consensus comes from the network file: the length of an epoch, and at a node the lifetime of its
//! keys and the first rates. No party takes a rate from a file of its own.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::consensus::MAX_GENERATIONS;
use crate::consensus::codec::{Parsed, Put, Reader, Writer};

/// Events per second in whole millihertz (1/1000 s⁻¹): exact in documents, no floating point on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rate(pub u32);

impl Rate {
    /// The rate as events per second.
    #[must_use]
    pub fn per_second(self) -> f64 {
        f64::from(self.0) / 1000.0
    }

    /// Mean time between two events; `Duration::MAX` for a rate of zero, which no valid parameter set contains.
    #[must_use]
    pub fn mean_gap(self) -> Duration {
        match self.0 {
            0 => Duration::MAX,
            millihertz => Duration::from_nanos(1_000_000_000_000 / u64::from(millihertz)),
        }
    }
}

/// Everything network-wide. Durations are whole milliseconds, rates millihertz.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// Length of an epoch, in ms.
    pub epoch_ms: u64,
    /// How far two honest clocks may differ, in ms: the next mix key is accepted that early, documents that early and
    /// that late.
    pub skew_ms: u64,
    /// Mean mixing delay per hop in force, in ms (exponential, sampled by the sender).
    pub mean_delay_ms: u64,
    /// The largest mean the authorities may ever raise `mean_delay_ms` to; sizes the grace time of old keys.
    pub mean_delay_max_ms: u64,
    /// λ_P: rate of the payload ticker of a client of the normal class (Loopix §4). The same for all clients, else
    /// their traffic tells them apart.
    #[serde(rename = "lambda_p_millihertz")]
    pub lambda_p: Rate,
    /// λ_L: rate of the measuring decoys of a client of the normal class.
    #[serde(rename = "lambda_l_millihertz")]
    pub lambda_l: Rate,
    /// λ_P + λ_L of a client of the low class (a phone).
    #[serde(rename = "lambda_low_millihertz")]
    pub lambda_low: Rate,
    /// λ_M: rate of the loops every node sends.
    #[serde(rename = "lambda_m_millihertz")]
    pub lambda_m: Rate,
    /// Time between the arrival of a request at the courier and its reply, whatever it asked, in ms.
    pub service_ms: u64,
    /// Time between the arrival of an envelope at a replica and its answer, whatever it asked, in ms.
    pub answer_ms: u64,
    /// Frames per second on each link between two stores, dummies included.
    #[serde(rename = "store_rate_millihertz")]
    pub store_rate: Rate,
    /// Mean gap between two polls of a chain that was active within `hot_for_ms`, in ms.
    pub poll_hot_ms: u64,
    /// Mean gap between two polls of a chain that was active within `warm_for_ms`, in ms.
    pub poll_warm_ms: u64,
    /// Mean gap between two polls of any other chain, in ms.
    pub poll_idle_ms: u64,
    /// Mean gap between two reads of the own inbox, in ms.
    pub poll_inbox_ms: u64,
    /// How long a chain is hot after activity, in ms.
    pub hot_for_ms: u64,
    /// How long a chain is warm after activity, in ms.
    pub warm_for_ms: u64,
    /// How long stores keep a box, in ms; also how long a retired generation stays readable.
    pub retention_ms: u64,
    /// Epochs between two draws of layers and store generations.
    pub draw_epochs: u32,
    /// How many packets should wait in every mix on average (λ/μ); 0 switches the floor off (test networks).
    pub anonymity_floor: u32,
    /// Mixes in each layer that the genesis draw needs and fills.
    pub mixes_per_layer: u16,
    /// Leading zero bits that an append to an empty inbox must show (hashcash).
    pub append_bits: u8,
}

/// Why a set of parameters cannot run a network.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ParameterError {
    /// A value lies outside the range in which the protocol works.
    #[error("parameter {name} is {value}; it must be between {min} and {max}")]
    OutOfRange {
        /// Field name.
        name: &'static str,
        /// The value found.
        value: u64,
        /// Smallest allowed value.
        min: u64,
        /// Largest allowed value.
        max: u64,
    },
    /// Two values contradict each other.
    #[error("parameters contradict each other: {0}")]
    Contradiction(&'static str),
}

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Number of fields, each one CBOR integer.
const FIELDS: usize = 22;

/// 1 − 10⁻¹² quantile of Exp(1): ln 10¹². A tighter cap would bend the distribution of delays, and a bent distribution
/// helps whoever compares arrival with departure times.
const CAP_QUANTILE: f64 = 27.631_021_115_928_547;

impl Parameters {
    /// The defaults of a public network.
    #[must_use]
    pub fn production() -> Self {
        Self {
            epoch_ms: 20 * MINUTE,
            skew_ms: 2 * MINUTE,
            mean_delay_ms: 500,
            mean_delay_max_ms: 5 * SECOND,
            lambda_p: Rate(2000),
            lambda_l: Rate(500),
            lambda_low: Rate(50),
            lambda_m: Rate(500),
            service_ms: SECOND,
            answer_ms: 100,
            store_rate: Rate(200_000),
            poll_hot_ms: 2 * SECOND,
            poll_warm_ms: 30 * SECOND,
            poll_idle_ms: 10 * MINUTE,
            poll_inbox_ms: MINUTE,
            hot_for_ms: 10 * MINUTE,
            warm_for_ms: DAY,
            retention_ms: 14 * DAY,
            draw_epochs: 7 * 24 * 3,
            anonymity_floor: 8,
            mixes_per_layer: 2,
            append_bits: 18,
        }
    }

    /// Everything scaled down so that a message crosses a network on one machine within seconds.
    #[must_use]
    pub fn test_network() -> Self {
        Self {
            epoch_ms: 20 * SECOND,
            skew_ms: 2 * SECOND,
            mean_delay_ms: 20,
            mean_delay_max_ms: 20,
            lambda_p: Rate(10_000),
            lambda_l: Rate(2000),
            lambda_low: Rate(1000),
            lambda_m: Rate(1000),
            service_ms: 250,
            answer_ms: 20,
            store_rate: Rate(400_000),
            poll_hot_ms: 200,
            poll_warm_ms: SECOND,
            poll_idle_ms: 5 * SECOND,
            poll_inbox_ms: SECOND,
            hot_for_ms: 10 * MINUTE,
            warm_for_ms: DAY,
            retention_ms: 10 * MINUTE,
            draw_epochs: 500,
            anonymity_floor: 0,
            mixes_per_layer: 2,
            append_bits: 8,
        }
    }

    /// Length of an epoch.
    #[must_use]
    pub fn epoch(&self) -> Duration {
        Duration::from_millis(self.epoch_ms)
    }

    /// Skew tolerance.
    #[must_use]
    pub fn skew(&self) -> Duration {
        Duration::from_millis(self.skew_ms)
    }

    /// How long after its epoch a mix key still opens packets: 40 × the largest mean delay, plus the skew tolerance. A
    /// sum of three exponential delays exceeds 40 means with probability below 10⁻¹⁴.
    #[must_use]
    pub fn grace(&self) -> Duration {
        Duration::from_millis(self.mean_delay_max_ms.saturating_mul(40).saturating_add(self.skew_ms))
    }

    /// The longest delay a hop accepts: the 1−10⁻¹² quantile of the larger of the current and the previous mean. A
    /// packet above it is dropped, not clamped.
    #[must_use]
    pub fn delay_cap(&self, previous_mean_ms: u64) -> Duration {
        let mean_ms = self.mean_delay_ms.max(previous_mean_ms).min(self.mean_delay_max_ms.max(self.mean_delay_ms));
        Duration::from_millis(mean_ms).mul_f64(CAP_QUANTILE)
    }

    /// How long a store keeps what nobody fetches.
    #[must_use]
    pub const fn retention(&self) -> Duration {
        Duration::from_millis(self.retention_ms)
    }

    /// The retention time in whole epochs, rounded up.
    #[must_use]
    pub fn retention_epochs(&self) -> u64 {
        self.retention_ms.div_ceil(self.epoch_ms.max(1))
    }

    /// Checks ranges and relations.
    ///
    /// # Errors
    /// The first value that is out of range, or two that contradict each other.
    pub fn validate(&self) -> Result<(), ParameterError> {
        for (name, value, min, max) in [
            ("epoch_ms", self.epoch_ms, SECOND, 7 * DAY),
            ("skew_ms", self.skew_ms, 1, self.epoch_ms / 4),
            ("mean_delay_ms", self.mean_delay_ms, 1, self.mean_delay_max_ms),
            ("mean_delay_max_ms", self.mean_delay_max_ms, 1, MINUTE),
            ("lambda_p_millihertz", self.lambda_p.0.into(), 1, 1_000_000),
            ("lambda_l_millihertz", self.lambda_l.0.into(), 1, 1_000_000),
            ("lambda_low_millihertz", self.lambda_low.0.into(), 1, 1_000_000),
            ("lambda_m_millihertz", self.lambda_m.0.into(), 1, 1_000_000),
            ("service_ms", self.service_ms, 1, MINUTE),
            ("answer_ms", self.answer_ms, 1, MINUTE),
            ("store_rate_millihertz", self.store_rate.0.into(), SECOND, 100_000_000),
            ("poll_hot_ms", self.poll_hot_ms, 1, DAY),
            ("poll_warm_ms", self.poll_warm_ms, 1, DAY),
            ("poll_idle_ms", self.poll_idle_ms, 1, DAY),
            ("poll_inbox_ms", self.poll_inbox_ms, 1, DAY),
            ("hot_for_ms", self.hot_for_ms, 1, 365 * DAY),
            ("warm_for_ms", self.warm_for_ms, 1, 365 * DAY),
            ("retention_ms", self.retention_ms, self.epoch_ms.saturating_mul(2), 365 * DAY),
            ("draw_epochs", self.draw_epochs.into(), 1, 1_000_000),
            ("anonymity_floor", self.anonymity_floor.into(), 0, 10_000),
            ("mixes_per_layer", self.mixes_per_layer.into(), 1, 256),
            ("append_bits", self.append_bits.into(), 0, 40),
        ] {
            if !(min..=max).contains(&value) {
                return Err(ParameterError::OutOfRange { name, value, min, max });
            }
        }
        if self.grace() >= self.epoch() {
            return Err(ParameterError::Contradiction(
                "the grace time (40 × mean_delay_max_ms + skew_ms) must be shorter than an epoch",
            ));
        }
        // service ≥ 2 × (answer + 2/rate): the first replica's timeout is half the service time, and its answer may
        // wait one frame each way.
        if self.service_ms < 2 * (self.answer_ms + 2_000_000u64.div_ceil(u64::from(self.store_rate.0))) {
            return Err(ParameterError::Contradiction(
                "service_ms must be at least twice (answer_ms + two frames at store_rate)",
            ));
        }
        // A generation is drawn every draw_epochs and listed for the retention time after it was replaced.
        if self.retention_epochs() / u64::from(self.draw_epochs) + 2 > MAX_GENERATIONS as u64 {
            return Err(ParameterError::Contradiction(
                "draw_epochs is so short against retention_ms that too many store generations would be alive at once",
            ));
        }
        if !(self.poll_hot_ms <= self.poll_warm_ms && self.poll_warm_ms <= self.poll_idle_ms) {
            return Err(ParameterError::Contradiction("poll means must not fall from hot to warm to idle"));
        }
        if self.hot_for_ms > self.warm_for_ms {
            return Err(ParameterError::Contradiction("hot_for_ms must not exceed warm_for_ms"));
        }
        Ok(())
    }

    /// Writes all fields as one array of integers.
    pub fn put(&self, writer: &mut Writer) {
        writer.put_array(FIELDS);
        for value in self.as_integers() {
            writer.put_uint(value);
        }
    }

    /// Reads the integers and says whether they are well-formed; ranges are [`Self::validate`]'s business.
    ///
    /// # Errors
    /// The name of the field.
    pub fn read(reader: &mut Reader<'_>) -> Parsed<Self> {
        const FIELD: &str = "parameters";
        reader.array(FIELDS, FIELD)?;
        Ok(Self {
            epoch_ms: reader.u64(FIELD)?,
            skew_ms: reader.u64(FIELD)?,
            mean_delay_ms: reader.u64(FIELD)?,
            mean_delay_max_ms: reader.u64(FIELD)?,
            lambda_p: Rate(reader.u32(FIELD)?),
            lambda_l: Rate(reader.u32(FIELD)?),
            lambda_low: Rate(reader.u32(FIELD)?),
            lambda_m: Rate(reader.u32(FIELD)?),
            service_ms: reader.u64(FIELD)?,
            answer_ms: reader.u64(FIELD)?,
            store_rate: Rate(reader.u32(FIELD)?),
            poll_hot_ms: reader.u64(FIELD)?,
            poll_warm_ms: reader.u64(FIELD)?,
            poll_idle_ms: reader.u64(FIELD)?,
            poll_inbox_ms: reader.u64(FIELD)?,
            hot_for_ms: reader.u64(FIELD)?,
            warm_for_ms: reader.u64(FIELD)?,
            retention_ms: reader.u64(FIELD)?,
            draw_epochs: reader.u32(FIELD)?,
            anonymity_floor: reader.u32(FIELD)?,
            mixes_per_layer: reader.u16(FIELD)?,
            append_bits: reader.u8(FIELD)?,
        })
    }

    /// All fields in wire order.
    fn as_integers(&self) -> [u64; FIELDS] {
        [
            self.epoch_ms,
            self.skew_ms,
            self.mean_delay_ms,
            self.mean_delay_max_ms,
            self.lambda_p.0.into(),
            self.lambda_l.0.into(),
            self.lambda_low.0.into(),
            self.lambda_m.0.into(),
            self.service_ms,
            self.answer_ms,
            self.store_rate.0.into(),
            self.poll_hot_ms,
            self.poll_warm_ms,
            self.poll_idle_ms,
            self.poll_inbox_ms,
            self.hot_for_ms,
            self.warm_for_ms,
            self.retention_ms,
            self.draw_epochs.into(),
            self.anonymity_floor.into(),
            self.mixes_per_layer.into(),
            self.append_bits.into(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::codec;
    use proptest::prelude::*;

    #[test]
    fn shipped_parameters_are_valid() {
        Parameters::production().validate().expect("production");
        Parameters::test_network().validate().expect("test network");
    }

    #[test]
    fn wire_round_trip() {
        for parameters in [Parameters::production(), Parameters::test_network()] {
            let bytes = codec::encode(|writer| parameters.put(writer));
            let mut reader = Reader::new(&bytes);
            assert_eq!(Parameters::read(&mut reader), Ok(parameters));
            reader.end("end").expect("nothing follows");
        }
    }

    #[test]
    fn toml_round_trip_refuses_unknown_keys() {
        let text = toml::to_string(&Parameters::test_network()).expect("encodes");
        assert_eq!(toml::from_str::<Parameters>(&text).expect("decodes"), Parameters::test_network());
        assert!(text.contains("lambda_p_millihertz = 10000"));
        assert!(toml::from_str::<Parameters>(&format!("{text}\nfast = true\n")).is_err());
    }

    #[test]
    fn bad_parameters_are_named() {
        let zero_rate = Parameters { lambda_p: Rate(0), ..Parameters::production() };
        assert!(matches!(
            zero_rate.validate(),
            Err(ParameterError::OutOfRange { name: "lambda_p_millihertz", value: 0, .. })
        ));
        let hasty = Parameters { service_ms: 30, ..Parameters::test_network() };
        assert!(matches!(hasty.validate(), Err(ParameterError::Contradiction(_))));
        let slow = Parameters { mean_delay_max_ms: 40_000, ..Parameters::production() };
        assert!(matches!(slow.validate(), Err(ParameterError::Contradiction(_))));
    }

    #[test]
    fn delay_cap_follows_the_larger_mean() {
        let parameters = Parameters::production();
        assert_eq!(parameters.delay_cap(100).as_millis(), 13_815);
        assert_eq!(parameters.delay_cap(1000).as_millis(), 27_631);
        assert_eq!(parameters.grace(), Duration::from_secs(320));
        assert_eq!(Parameters::test_network().grace(), Duration::from_millis(2800));
    }

    proptest! {
        #[test]
        fn every_value_survives_the_wire(long: [u64; 13], rates: [u32; 5], draw: u32, floor: u32, width: u16, bits: u8) {
            let parameters = Parameters {
                epoch_ms: long[0],
                skew_ms: long[1],
                mean_delay_ms: long[2],
                mean_delay_max_ms: long[3],
                lambda_p: Rate(rates[0]),
                lambda_l: Rate(rates[1]),
                lambda_low: Rate(rates[2]),
                lambda_m: Rate(rates[3]),
                service_ms: long[4],
                answer_ms: long[5],
                store_rate: Rate(rates[4]),
                poll_hot_ms: long[6],
                poll_warm_ms: long[7],
                poll_idle_ms: long[8],
                poll_inbox_ms: long[9],
                hot_for_ms: long[10],
                warm_for_ms: long[11],
                retention_ms: long[12],
                draw_epochs: draw,
                anonymity_floor: floor,
                mixes_per_layer: width,
                append_bits: bits,
            };
            let bytes = codec::encode(|writer| parameters.put(writer));
            prop_assert_eq!(Parameters::read(&mut Reader::new(&bytes)), Ok(parameters));
            prop_assert!(Parameters::read(&mut Reader::new(&bytes[..bytes.len() - 1])).is_err());
            // whatever a document claims, looking at it never panics
            let _ = parameters.validate();
        }
    }

    #[test]
    fn rates() {
        assert_eq!(Rate(10_000).mean_gap(), Duration::from_millis(100));
        assert_eq!(Rate(50).mean_gap(), Duration::from_secs(20));
        assert!((Rate(500).per_second() - 0.5).abs() < f64::EPSILON);
    }
}
