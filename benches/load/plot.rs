//! Plots as SVG, by hand: lines over a logarithmic axis, both sides in one picture.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::compare::{Comparison, Point};
use crate::table::Table;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 78.0;
const BOTTOM: f64 = 50.0;
/// Told apart by those who see no red or green, too.
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#56b4e9", "#e69f00"];

/// One line: its name and a value for each place on the axis below.
struct Line {
    name: String,
    values: Vec<f64>,
}

struct Plot {
    title: String,
    below: String,
    beside: String,
    places: Vec<String>,
    lines: Vec<Line>,
    logarithmic: bool,
}

/// Throughput over connections, CPU over connections, latencies over percentiles.
pub(crate) fn write(directory: &Path, comparison: &Comparison) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("failed to make {}", directory.display()))?;
    let name = format!("{}-{}", comparison.scenario, comparison.runtime);
    let mut plots = over_connections(comparison);
    plots.extend(latencies(comparison).map(|plot| ("latency", plot)));
    for (kind, plot) in plots {
        let path = directory.join(format!("{name}-{kind}.svg"));
        fs::write(&path, plot.draw()).with_context(|| format!("failed to write {}", path.display()))?;
    }
    Ok(())
}

/// `index.html`: all tables, and all plots that lie beside it.
pub(crate) fn write_page(directory: &Path, head: &str, tables: &[Table]) -> Result<()> {
    let mut plots: Vec<String> = fs::read_dir(directory)
        .with_context(|| format!("failed to read {}", directory.display()))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".svg"))
        .collect();
    plots.sort_unstable();
    let path = directory.join("index.html");
    fs::write(&path, page(head, tables, &plots))
        .with_context(|| format!("failed to write {}", path.display()))
}

fn page(head: &str, tables: &[Table], plots: &[String]) -> String {
    let mut html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Performance</title><style>\n\
         body {{ font-family: sans-serif; margin: 2em }} td, th {{ padding: 0.1em 0.8em; text-align: right }}\n\
         td:first-child {{ text-align: left }} tr:nth-child(even) {{ background: #f2f2f2 }}\n\
         </style></head><body>\n<p>{}</p>\n",
        escaped(head).replace('\n', "<br>\n")
    );
    for table in tables {
        let row = |cells: &[String], tag: &str| {
            let cells = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell)));
            format!("<tr>{}</tr>\n", cells.collect::<String>())
        };
        let rows: String = table.rows.iter().map(|cells| row(cells, "td")).collect();
        let notes =
            table.notes.iter().cloned().chain(table.failed.iter().map(|one| format!("FAILED: {one}")));
        let notes: String = notes.map(|note| format!("<li>{}</li>\n", escaped(&note))).collect();
        let title = escaped(&table.title);
        html.push_str(&format!(
            "<h2>{title}</h2>\n<table>{}{rows}</table>\n<ul>{notes}</ul>\n",
            row(&table.header, "th")
        ));
    }
    for plot in plots {
        let name = escaped(plot);
        html.push_str(&format!("<p><img src=\"{name}\" alt=\"{name}\"></p>\n"));
    }
    html.push_str("</body></html>\n");
    html
}

fn over_connections(comparison: &Comparison) -> Vec<(&'static str, Plot)> {
    let points: Vec<&Point> = comparison.points.iter().filter(|point| point.rates.is_none()).collect();
    let Some(first) = points.first() else { return Vec::new() };
    let plot = |beside: &str, value: fn(&crate::figures::Figures) -> f64| Plot {
        title: format!("{}, {}, {} worker(s)", comparison.scenario, comparison.runtime, comparison.workers),
        below: "connections".to_owned(),
        beside: beside.to_owned(),
        places: points.iter().map(|point| point.connections.to_string()).collect(),
        lines: first
            .sides
            .iter()
            .enumerate()
            .map(|(index, side)| Line {
                name: side.name.clone(),
                values: points.iter().map(|point| value(&point.sides[index].figures)).collect(),
            })
            .collect(),
        logarithmic: false,
    };
    vec![
        ("throughput", plot("requests/s", |figures| figures.requests_per_second)),
        ("cpu", plot("CPU µs per request", |figures| figures.cpu_micros_per_request)),
    ]
}

/// Of the largest number of connections: closed loop, and at the fixed rate if there is one.
fn latencies(comparison: &Comparison) -> Option<Plot> {
    let most = comparison.points.iter().map(|point| point.connections).max()?;
    let points = comparison.points.iter().filter(|point| point.connections == most);
    let lines = points.flat_map(|point| {
        point.sides.iter().enumerate().map(|(index, side)| {
            let pace = match &point.rates {
                Some(rates) => format!("at {:.0}/s", rates[index]),
                None => "closed loop".to_owned(),
            };
            let figures = &side.figures;
            let values = [figures.p50_micros, figures.p90_micros, figures.p99_micros, figures.p999_micros];
            Line { name: format!("{}, {pace}", side.name), values: values.to_vec() }
        })
    });
    Some(Plot {
        title: format!("{}, {}: latency, {most} connections", comparison.scenario, comparison.runtime),
        below: "percentile".to_owned(),
        beside: "µs".to_owned(),
        places: ["p50", "p90", "p99", "p99.9"].map(str::to_owned).to_vec(),
        lines: lines.collect(),
        logarithmic: true,
    })
}

impl Plot {
    fn draw(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
             height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        text(&mut svg, WIDTH / 2.0, 22.0, "middle", "font-size=\"16\"", &self.title);
        let (low, high) = self.range();
        for tick in ticks(low, high, self.logarithmic) {
            let y = self.height(tick, low, high);
            let right = WIDTH - RIGHT;
            line(&mut svg, (LEFT, y), (right, y), "stroke=\"#ddd\"");
            text(&mut svg, LEFT - 8.0, y + 4.0, "end", "", &short(tick));
        }
        for (index, place) in self.places.iter().enumerate() {
            text(&mut svg, self.across(index), HEIGHT - BOTTOM + 20.0, "middle", "", place);
        }
        text(&mut svg, (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 10.0, "middle", "", &self.below);
        let turned = format!("transform=\"rotate(-90 20 {})\"", HEIGHT / 2.0);
        text(&mut svg, 20.0, HEIGHT / 2.0, "middle", &turned, &self.beside);
        for (index, one) in self.lines.iter().enumerate() {
            self.draw_line(&mut svg, index, one, low, high);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn draw_line(&self, svg: &mut String, index: usize, one: &Line, low: f64, high: f64) {
        let colour = COLOURS[index % COLOURS.len()];
        let at = |(index, value): (usize, &f64)| (self.across(index), self.height(*value, low, high));
        let points: Vec<(f64, f64)> =
            one.values.iter().enumerate().filter(|(_, value)| value.is_finite()).map(at).collect();
        let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        svg.push_str(&format!(
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n",
            path.join(" ")
        ));
        for (x, y) in points {
            svg.push_str(&format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>\n"));
        }
        // The legend: two columns above the picture.
        let (x, y) = (LEFT + (index % 2) as f64 * 310.0, 42.0 + (index / 2) as f64 * 18.0);
        line(svg, (x, y - 4.0), (x + 22.0, y - 4.0), &format!("stroke=\"{colour}\" stroke-width=\"3\""));
        text(svg, x + 28.0, y, "start", "", &one.name);
    }

    fn range(&self) -> (f64, f64) {
        let values =
            self.lines.iter().flat_map(|line| &line.values).copied().filter(|value| value.is_finite());
        let (least, most) =
            values.fold((f64::MAX, 0.0), |(low, high), value| (value.min(low), value.max(high)));
        if !self.logarithmic {
            return (0.0, if most > 0.0 { most * 1.08 } else { 1.0 });
        }
        let whole = |value: f64, round: fn(f64) -> f64| 10_f64.powf(round(value.max(1.0).log10()));
        let (low, high) = (whole(least.min(most), f64::floor), whole(most, f64::ceil));
        (low, high.max(low * 10.0))
    }

    fn across(&self, index: usize) -> f64 {
        let room = (WIDTH - LEFT - RIGHT) / self.places.len() as f64;
        LEFT + room * (index as f64 + 0.5)
    }

    fn height(&self, value: f64, low: f64, high: f64) -> f64 {
        let share = if self.logarithmic {
            (value.max(low) / low).log10() / (high / low).log10()
        } else {
            (value - low) / (high - low)
        };
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    }
}

/// Round values from low to high, about five of them.
fn ticks(low: f64, high: f64, logarithmic: bool) -> Vec<f64> {
    if logarithmic {
        let first = low.log10().round() as i32;
        return (first..).map(|power| 10_f64.powi(power)).take_while(|tick| *tick <= high * 1.001).collect();
    }
    let raw = (high - low) / 5.0;
    let power = 10_f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= raw);
    let step = step.unwrap_or(raw);
    (0..).map(|number| low + step * f64::from(number)).take_while(|tick| *tick <= high).collect()
}

fn short(value: f64) -> String {
    match value {
        value if value >= 1e6 => format!("{}M", trimmed(value / 1e6)),
        value if value >= 1e3 => format!("{}k", trimmed(value / 1e3)),
        value => trimmed(value),
    }
}

fn trimmed(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), style: &str) {
    let ((x1, y1), (x2, y2)) = (from, to);
    svg.push_str(&format!("<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" {style}/>\n"));
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, style: &str, text: &str) {
    let escaped = escaped(text);
    svg.push_str(&format!(
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {style}>{escaped}</text>\n"
    ));
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
#[allow(dead_code, unused_imports, reason = "run by `unit_tests.rs`; the bench has no harness")]
mod tests {
    use super::*;

    fn plot(values: Vec<f64>, logarithmic: bool) -> Plot {
        Plot {
            title: "a < b".into(),
            below: "connections".into(),
            beside: "requests/s".into(),
            places: (0..values.len()).map(|place| place.to_string()).collect(),
            lines: vec![Line { name: "one & two".into(), values }],
            logarithmic,
        }
    }

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(ticks(0.0, 108.0, false), [0.0, 50.0, 100.0]);
        assert_eq!(ticks(0.0, 9.0, false), [0.0, 2.0, 4.0, 6.0, 8.0]);
        assert_eq!(ticks(10.0, 10_000.0, true), [10.0, 100.0, 1_000.0, 10_000.0]);
        assert_eq!([0.5, 2500.0, 100_000.0].map(short), ["0.5", "2.5k", "100k"]);
    }

    #[test]
    fn values_lie_inside_the_picture_and_names_are_escaped() {
        for logarithmic in [false, true] {
            let plot = plot(vec![3.0, f64::NAN, 950.0], logarithmic);
            let (low, high) = plot.range();
            for value in [3.0, 950.0] {
                assert!((TOP..=HEIGHT - BOTTOM).contains(&plot.height(value, low, high)));
            }
            let svg = plot.draw();
            assert!(svg.contains("a &lt; b") && svg.contains("one &amp; two") && !svg.contains("NaN"));
            assert_eq!(svg.matches("<circle").count(), 2);
        }
    }

    #[test]
    fn a_page_has_every_table_and_every_plot() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["b.svg", "a.svg", "c.json"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let table = Table {
            title: "a < b".into(),
            header: vec!["x".into(), "y".into()],
            rows: vec![vec!["one & two".into(), "2".into()]],
            failed: vec!["lost".into()],
            ..Table::default()
        };
        write_page(directory.path(), "head\nsecond", &[table]).unwrap();
        let page = fs::read_to_string(directory.path().join("index.html")).unwrap();
        assert!(page.contains("<h2>a &lt; b</h2>") && page.contains("<td>one &amp; two</td><td>2</td>"));
        assert!(
            page.contains("FAILED: lost") && page.contains("head<br>\nsecond") && !page.contains("c.json")
        );
        assert!(page.find("a.svg").unwrap() < page.find("b.svg").unwrap());
    }

    #[test]
    fn nothing_to_show_is_still_a_picture() {
        for logarithmic in [false, true] {
            assert!(plot(vec![f64::NAN], logarithmic).draw().ends_with("</svg>\n"));
        }
    }
}
