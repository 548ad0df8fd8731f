//! What is wrong in a TOML file, said without showing the file: somebody may have named a key file in place of another, and
//! what is printed ends in terminals, logs and questions to others.

/// Longest text, in characters.
const LENGTH_MAX: usize = 200;

/// Line and problem; nothing of the text but a key or word that the parser names.
#[must_use]
pub fn toml_problem(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let problem: String = error.message().chars().filter(|c| !c.is_control()).take(LENGTH_MAX).collect();
    format!("line {line}: {problem}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_named_and_the_text_is_not_shown() {
        let secret = "016d31fd".repeat(16);
        for text in [secret.clone(), format!("a = 1\n{secret}\n"), format!("a = 1\nb = {secret}")] {
            let error = toml::from_str::<toml::Table>(&text).expect_err("no TOML");
            let said = toml_problem(&text, &error);
            assert!(!said.contains("016d31fd"), "{said}");
            assert!(said.starts_with("line "), "{said}");
        }
    }
}
