//! The example of a configuration that is shipped is one.

use shoal_node::config::{Config, Limits};

#[test]
fn the_example_is_a_configuration_with_the_defaults() {
    let config = Config::parse(include_str!("../../ops/config/node.toml")).expect("is read as `run` reads it");
    assert_eq!(config.limits, Limits::default(), "the figures in it are those of the program");
    assert!(!config.leaving && config.family.is_none());
}
