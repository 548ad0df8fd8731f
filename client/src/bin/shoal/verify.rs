//! `shoal verify`: comparing safety numbers.

use std::path::Path;

use shoal_client::io::{Call, VerifyLine};

use crate::daemon::reach;
use crate::output::{Out, Problem, plain};
use crate::qr;

pub(crate) async fn verify(
    profile: &Path,
    who: String,
    confirm: bool,
    code: Option<String>,
    out: &Out,
) -> Result<(), Problem> {
    let line: VerifyLine = reach(profile, out).await?.call(Call::Verify { who, code, confirm }).await?;
    out.either(&line, || human(&line, confirm))
}

fn human(line: &VerifyLine, confirmed: bool) -> String {
    let name = plain(&line.name);
    if line.matches || confirmed {
        let matches = if line.matches { "the safety numbers match" } else { "noted" };
        let then = match (line.verified, line.matches) {
            (true, _) => format!("{name} is verified"),
            (false, _) => format!("to note it: shoal verify {name} --confirm"),
        };
        return format!("{matches}; {then}");
    }
    let groups: Vec<&str> = line.digits.split(' ').collect();
    let digits: Vec<String> = groups.chunks(4).map(|row| format!("  {}", row.join(" "))).collect();
    let words: Vec<&str> = line.words.split(' ').collect();
    let words: Vec<String> = words.chunks(5).map(|row| format!("  {}", row.join(" "))).collect();
    let mut parts = vec![
        format!("Safety number with {name}{}", if line.verified { " (verified)" } else { "" }),
        digits.join("\n"),
        format!("in words\n{}", words.join("\n")),
    ];
    match qr::drawn(&line.code) {
        Ok(drawn) => parts.push(drawn),
        Err(too_small) => parts.push(format!("{too_small}; its content is {}", line.code)),
    }
    parts.push(
        "Compare digits or words, in person or on a call: both of you must see the same. Then: shoal verify WHO \
         --confirm\nOr paste what the other side sees or scanned: shoal verify WHO --code TEXT --confirm"
            .to_owned(),
    );
    parts.join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_fits_a_narrow_terminal_and_says_what_to_do() {
        let line = VerifyLine {
            name: "bob".into(),
            address: "shoal1x".into(),
            digits: ["1234"; 16].join(" "),
            words: ["babab"; 13].join(" "),
            code: format!("shoal-verify1{}", "q".repeat(59)),
            verified: false,
            matches: false,
        };
        let text = human(&line, false);
        assert!(text.contains("  1234 1234 1234 1234\n") && text.contains("--confirm"), "{text}");
        assert!(human(&VerifyLine { matches: true, ..line.clone() }, false).contains("match"));
        assert!(human(&VerifyLine { verified: true, ..line }, true).contains("bob is verified"));
    }
}
