//! The dashboard of `docs/grafana`: each of its queries, asked of a real Prometheus that scrapes a loaded processor,
//! has an answer.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Client, PATIENCE, Processor, Setup, get};
use crate::servers::{Server, program};

const DASHBOARD: &str = include_str!("../../docs/grafana/dashboard.json");
/// What Grafana would put in, for the short time of this test.
const VARIABLES: [(&str, &str); 2] = [("$__rate_interval", "4s"), ("$function", ".*")];
/// Panels whose figures stay 0 while all is as it should be.
const QUIET: [&str; 1] = ["Log records lost"];

/// A handler for all that can happen to events: most are quick, some late, some end their worker.
const SCRIPT: &str = "
def each(id, path, body):
    if path == '/exit':
        os._exit(6)
    time.sleep(1 if path == '/slow' else 0.005)
    answer(id, b'x' * 2000)
hello()
ready()
serve(each)
";

struct Query {
    panel: String,
    text: String,
}

fn queries() -> Vec<Query> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap().to_owned();
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        assert_eq!(targets.is_empty(), panel["type"] == "row", "{title} has nothing to show");
        for target in targets {
            let mut text = target["expr"].as_str().unwrap().to_owned();
            for (variable, value) in VARIABLES {
                text = text.replace(variable, value);
            }
            assert!(!text.contains('$'), "unknown variable in {text}");
            queries.push(Query { panel: title.clone(), text });
        }
    }
    queries
}

/// The finite values that a query gives now.
pub fn ask(prometheus: u16, query: &str) -> Vec<f64> {
    let escaped: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let answer = get(prometheus, &format!("/api/v1/query?query={escaped}")).unwrap();
    assert_eq!(answer.status, 200, "{query}: {}", answer.text());
    let json = answer.json();
    let samples = json["data"]["result"].as_array().unwrap();
    let value = |sample: &Value| sample["value"][1].as_str().unwrap().parse::<f64>().unwrap();
    samples.iter().map(value).filter(|value| value.is_finite()).collect()
}

/// Keeps a processor busy until it is told that it is over.
fn load(processor: &Processor, over: &AtomicBool) {
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for n in 1_u32.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let path = match (thread, n % 50) {
                        (0, 0) => "/exit",
                        (0, 25) => "/slow",
                        _ => "/",
                    };
                    let mut client = Client::connect(processor.http());
                    client.send_post(path, b"body");
                    client.read_answer(false).unwrap();
                }
            });
        }
    });
}

/// A Prometheus that scrapes a processor.
pub fn scraping(program: &Path, processor: &Processor) -> Server {
    let config = format!(
        "global: {{scrape_interval: 500ms}}\nscrape_configs:\n- job_name: functions\n  static_configs:\n  \
         - targets: ['127.0.0.1:{}']\n",
        processor.ports.metrics
    );
    processor.write("prometheus.yml", &config);
    let folder = processor.directory.path().display();
    let config = format!("--config.file={folder}/prometheus.yml");
    let storage = format!("--storage.tsdb.path={folder}/data");
    Server::start(program, &[&config, &storage], "/-/ready")
}

#[test]
fn every_query_of_the_dashboard_has_an_answer() {
    let Some(program) = program("prometheus") else { return };
    let processor = Setup::fake_shim(SCRIPT)
        .trigger(json!({"numWorkers": 2}))
        .spec(json!({"eventTimeout": "200ms"}))
        .start();
    let prometheus = scraping(&program, &processor);
    let over = AtomicBool::new(false);
    let left = std::thread::scope(|scope| {
        scope.spawn(|| load(&processor, &over));
        let left = ask_until_answered(prometheus.port);
        over.store(true, Ordering::Relaxed);
        left
    });
    assert!(left.is_empty(), "no answer, or only zeros:\n{}", left.join("\n"));
}

/// What has no answer when patience ends. A query wants any sample, a panel one that is not 0.
fn ask_until_answered(prometheus: u16) -> Vec<String> {
    let queries = queries();
    let mut samples = vec![Vec::new(); queries.len()];
    let deadline = Instant::now() + PATIENCE;
    loop {
        let alive = |query: &Query, samples: &[Vec<f64>]| {
            let of_panel = queries.iter().zip(samples).filter(|(other, _)| other.panel == query.panel);
            of_panel.flat_map(|(_, values)| values).any(|value| *value > 0.0)
        };
        let left: Vec<usize> = (0..queries.len())
            .filter(|at| {
                let quiet = QUIET.contains(&queries[*at].panel.as_str());
                samples[*at].is_empty() || !(quiet || alive(&queries[*at], &samples))
            })
            .collect();
        if left.is_empty() || Instant::now() > deadline {
            return left.iter().map(|at| format!("{}: {}", queries[*at].panel, queries[*at].text)).collect();
        }
        for at in left {
            samples[at] = ask(prometheus, &queries[at].text);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
