//! `check-config`: what `run` and SIGHUP would find in the directory.

use clap::Args;
use serde_json::json;
use shoal_directory::io::check::{self, Report};
use shoal_directory::io::failure::{Failure, Kind};
use shoal_directory::io::now;

use super::Common;
use super::network::no_gateways;
use crate::Output;

#[derive(Debug, Args)]
pub(super) struct CheckConfig {
    #[command(flatten)]
    common: Common,
}

impl CheckConfig {
    pub(super) fn run(&self) -> Result<Output, Failure> {
        let home = self.common.home();
        let Report { problems, asks, notices } = check::check(&home, now());
        if let Some(first) = problems.first() {
            let all: Vec<_> = problems.iter().map(|problem| problem.message.clone()).collect();
            // one step for all of them
            let next = if problems.len() == 1 {
                first.next.clone()
            } else {
                "correct each of them, then check again".to_owned()
            };
            return Err(Failure::new(worst(&problems), all.join("\n"), next));
        }
        let mut text = vec!["all files can be used".to_owned()];
        text.extend(asks.iter().map(|ask| format!("asks for: {ask}")));
        Ok(Output {
            json: json!({"ok": true, "asks": asks}),
            text: text.join("\n"),
            warnings: notices.into_iter().chain(no_gateways(&home.network()?)).collect(),
        })
    }
}

/// Exit by what the operator can correct, if that is among it.
fn worst(problems: &[Failure]) -> Kind {
    let configuration = problems.iter().any(|problem| problem.kind == Kind::Configuration);
    if configuration { Kind::Configuration } else { problems.first().map_or(Kind::Configuration, |first| first.kind) }
}
