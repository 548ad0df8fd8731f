//! `shoal rate`: how much is sent, used or not, and what that costs.

use std::path::Path;
use std::time::Duration;

use shoal_client::io::{Call, Caller, CostLine, RateLine};
use shoal_client::mail::{Mail, MailError, RateClass};
use shoal_client::profile::{KeyFile, Opener};
use shoal_protocol::duration;

use crate::args::Class;
use crate::asking::{self, Opening};
use crate::daemon::{reach, start_again, stop};
use crate::output::{Out, Problem, size};
use crate::protect::check;

pub(crate) async fn rate(profile: &Path, wanted: Option<Class>, out: &Out) -> Result<(), Problem> {
    let line = match wanted {
        None => reach(profile, out).await?.call(Call::Rate).await?,
        Some(class) => change(profile, class, out).await?,
    };
    out.either(&line, || table(&line))
}

async fn change(profile: &Path, class: Class, out: &Out) -> Result<RateLine, Problem> {
    let class = match class {
        Class::Normal => RateClass::Normal,
        Class::Low => RateClass::Low,
    };
    if let Ok(mut caller) = Caller::connect(profile) {
        // a start is seen on the wire: none for nothing
        let now: RateLine = caller.call(Call::Rate).await?;
        if now.class == class {
            return Ok(now);
        }
    }
    let Opening { opener, .. } = asking::opening(profile, out).await?;
    check(profile, &KeyFile::read(profile)?, &opener)?;
    let ran = stop(profile, out).await?;
    let changed = set(profile, &opener, class);
    if ran {
        start_again(profile, &opener, out).await?;
    }
    Ok(changed?)
}

fn set(profile: &Path, opener: &Opener, class: RateClass) -> Result<RateLine, MailError> {
    let mut mail = Mail::open_with(profile, opener)?;
    mail.set_rate_class(class)?;
    Ok(RateLine::new(class, mail.network()))
}

fn table(line: &RateLine) -> String {
    let (mine, other) = match line.class {
        RateClass::Normal => ("normal", "low"),
        RateClass::Low => ("low", "normal"),
    };
    let time = |of: fn(&CostLine) -> u64| {
        [&line.normal, &line.low].map(|costs| format!("about {}", duration::short(Duration::from_millis(of(costs)))))
    };
    let traffic = [&line.normal, &line.low].map(|costs| format!("{} a month", size(costs.monthly_bytes)));
    let rows = [
        ("", ["normal".to_owned(), "low".to_owned()]),
        ("traffic each way, used or not", traffic),
        ("a text, until two stores have it", time(|costs| costs.text_stored_ms)),
        ("a text, until it is read", time(|costs| costs.text_arrives_ms)),
        ("a file of 64 KiB", time(|costs| costs.file_64k_ms)),
        ("a file of 5 MiB", time(|costs| costs.file_5m_ms)),
    ];
    let rows = rows.map(|(what, [normal, low])| format!("  {what:<34}{normal:<18}{low}").trim_end().to_owned());
    format!(
        "Rate class {mine}; everybody on the way can see which class you use.\n\n{}\n\n\
         Times are means, for a reader of the normal class who is online.\nTo change it: shoal rate {other}",
        rows.join("\n")
    )
}
