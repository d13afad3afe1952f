//! JUnit's report of a run, for the one who counts.

use std::fmt::Write as _;

/// A case: its class and name, and why it failed, if it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Class.
    pub class: &'static str,
    /// Name.
    pub name: String,
    /// Nothing if it passed.
    pub failure: Option<Failure>,
}

/// Why a case failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// In short: how it is seen again, say. May be empty.
    pub message: String,
    /// All of it.
    pub text: String,
}

/// The report.
pub fn report(suite: &str, seconds: f64, cases: &[Case]) -> String {
    let failures = cases.iter().filter(|case| case.failure.is_some()).count();
    let mut text = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"{}\" tests=\"{}\" \
         failures=\"{failures}\" time=\"{seconds:.3}\">\n",
        escaped(suite),
        cases.len()
    );
    for Case { class, name, failure } in cases {
        let _ = write!(text, "  <testcase classname=\"{class}\" name=\"{}\"", escaped(name));
        let Some(Failure { message, text: why }) = failure else {
            text += "/>\n";
            continue;
        };
        let message = match message.is_empty() {
            true => String::new(),
            false => format!(" message=\"{}\"", escaped(message)),
        };
        let _ =
            write!(text, ">\n    <failure{message}>{}</failure>\n  </testcase>\n", escaped(why));
    }
    text + "</testsuite>\n"
}

/// For XML, which has no place for control characters at all.
fn escaped(text: &str) -> String {
    let mut safe = String::new();
    for letter in text.chars() {
        match letter {
            '&' => safe += "&amp;",
            '<' => safe += "&lt;",
            '>' => safe += "&gt;",
            '"' => safe += "&quot;",
            '\n' | '\t' => safe.push(letter),
            _ if letter.is_control() => safe.push('\u{fffd}'),
            _ => safe.push(letter),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_its_cases_and_holds_whatever_they_say() {
        let failure =
            Failure { message: "see \"it\"".to_owned(), text: "3 < 4 & \u{1b}[1mlost".to_owned() };
        let case = |name: &str, failure| Case { class: "tests", name: name.to_owned(), failure };
        let text = report("a run", 1.5, &[case("one", None), case("two", Some(failure))]);
        assert!(
            text.contains("name=\"a run\" tests=\"2\" failures=\"1\" time=\"1.500\""),
            "{text}"
        );
        assert!(text.contains("classname=\"tests\" name=\"one\"/>"), "{text}");
        assert!(text.contains("message=\"see &quot;it&quot;\""), "{text}");
        assert!(text.contains("3 &lt; 4 &amp; \u{fffd}[1mlost"), "{text}");
    }
}
