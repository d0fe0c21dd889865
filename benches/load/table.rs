//! Figures into text, and the two sums over samples that every scenario needs.

use std::time::Duration;

use serde::Serialize;

/// A title, a header, rows, and what must be known to read them.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) header: Vec<String>,
    pub(crate) rows: Vec<Vec<String>>,
    pub(crate) notes: Vec<String>,
    /// What makes it no measurement: each fails the run.
    pub(crate) failed: Vec<String>,
}

impl Table {
    /// First column to the left, figures to the right.
    pub(crate) fn render(&self, markdown: bool) -> String {
        let lines: Vec<&Vec<String>> = std::iter::once(&self.header).chain(&self.rows).collect();
        let widths: Vec<usize> = (0..self.header.len())
            .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default())
            .collect();
        let mut rendered: Vec<String> =
            lines.iter().map(|line| render_line(line, &widths, markdown)).collect();
        if markdown {
            let rule = |(column, _)| if column == 0 { "---" } else { "---:" };
            let rules: Vec<&str> = widths.iter().enumerate().map(rule).collect();
            rendered.insert(1, format!("| {} |", rules.join(" | ")));
        }
        let title = if markdown { format!("### {}\n", self.title) } else { self.title.clone() };
        let before = if markdown { "\n- " } else { "\n  * " };
        let failed = self.failed.iter().map(|failed| format!("{before}FAILED: {failed}"));
        let notes: String = self.notes.iter().map(|note| format!("{before}{note}")).chain(failed).collect();
        let gap = if markdown && !notes.is_empty() { "\n" } else { "" };
        format!("{title}\n{}{gap}{notes}", rendered.join("\n"))
    }
}

fn render_line(cells: &[String], widths: &[usize], markdown: bool) -> String {
    if markdown {
        return format!("| {} |", cells.join(" | "));
    }
    let padded = cells.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column {
        0 => format!("  {cell:<width$}"),
        _ => format!("  {cell:>width$}"),
    });
    padded.collect()
}

/// The cells of a header.
pub(crate) fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

/// The value that a share `q` of the samples does not exceed.
pub(crate) fn percentile(samples: &[f64], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(f64::NAN)
}

pub(crate) fn median(samples: &[f64]) -> f64 {
    percentile(samples, 0.5)
}

/// A figure in whole units; a dash where there was no sample.
pub(crate) fn whole(figure: f64) -> String {
    if figure.is_finite() { format!("{figure:.0}") } else { "–".to_owned() }
}

pub(crate) fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

/// A figure with one digit behind the point; a dash where there was nothing to divide by.
pub(crate) fn tenths(figure: f64) -> String {
    if figure.is_finite() { format!("{figure:.1}") } else { "–".to_owned() }
}

pub(crate) fn mebibytes(kib: u64) -> String {
    format!("{:.1}", kib as f64 / 1024.0)
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "run by `unit_tests.rs`; the bench has no harness")]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_and_need_no_order() {
        let samples = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(median(&samples), 3.0);
        assert_eq!((percentile(&samples, 0.0), percentile(&samples, 1.0)), (1.0, 5.0));
        assert_eq!(percentile(&samples, 0.81), 5.0);
        assert!(median(&[]).is_nan());
        assert_eq!(
            (whole(f64::NAN), whole(2.5), tenths(f64::INFINITY)),
            ("–".into(), "2".into(), "–".into())
        );
    }

    fn table() -> Table {
        Table {
            title: "what".into(),
            header: names(&["", "µs"]),
            rows: vec![vec!["a".into(), "10".into()], vec!["bcd".into(), "5".into()]],
            notes: vec!["seen".into()],
            failed: vec!["lost".into()],
        }
    }

    #[test]
    fn columns_are_lined_up() {
        assert_eq!(
            table().render(false),
            "what\n       µs\n  a    10\n  bcd   5\n  * seen\n  * FAILED: lost"
        );
    }

    #[test]
    fn markdown_has_a_rule_and_notes_apart() {
        let wanted =
            "### what\n\n|  | µs |\n| --- | ---: |\n| a | 10 |\n| bcd | 5 |\n\n- seen\n- FAILED: lost";
        assert_eq!(table().render(true), wanted);
    }
}
