//! The print-out of an error that ends the start, in the shape other programs look for.
//!
//! The controller shows a user every line up to `Call stack:`; so what helps comes before it.

use super::error::ConfigError;

/// The print-out for stderr: root message, where it stands and what to do, then the messages around it.
pub fn report(error: &ConfigError) -> String {
    let problem = error.problem();
    let chain = error.chain();
    let says_it_already = chain.first() == Some(&problem.wrong);
    let detail = if says_it_already { problem.place_and_remedy() } else { problem.to_string() };
    print_out(&chain, &detail)
}

/// The same for any error: `chain` has the root first, `detail` is one more line for people, or empty.
pub fn print_out(chain: &[String], detail: &str) -> String {
    let (root, around) =
        chain.split_first().map_or((detail, &[][..]), |(root, around)| (root.as_str(), around));
    let mut text = format!("\nError - {root}\n");
    if !detail.is_empty() && detail != root {
        text.push_str(&format!("    {detail}\n"));
    }
    text.push_str("\nCall stack:\n");
    for message in around {
        text.push_str(message);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::error::Problem;

    #[test]
    fn has_the_headings_in_order_and_the_remedy_before_the_stack() {
        let problem =
            Problem::new("Failed to find logger sink x").key("spec.loggerSinks").remedy("define it");
        let error = ConfigError::Setting(problem.cause("Failed to create logger"));
        assert_eq!(
            report(&error),
            "\nError - Failed to find logger sink x\n    spec.loggerSinks; define it\n\nCall stack:\nFailed to \
             create logger\n"
        );
    }

    #[test]
    fn our_own_words_stand_beside_a_root_in_those_of_the_go_processor() {
        let problem = Problem::new("ours").root("theirs").cause("around").key("k").remedy("do");
        let text = report(&ConfigError::Setting(problem));
        assert_eq!(text, "\nError - theirs\n    k: ours; do\n\nCall stack:\naround\n");
    }
}
