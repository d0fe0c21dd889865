//! What an image of ours costs: bytes over its base, and time until it answers. `-- --ignored --show-output figures`
//! prints what `docs/images.md` says.

use crate::docker::{available, base, binaries, docker, python, python_function, root};

/// Processor, shim and probe together.
const OVERHEAD_MAX: u64 = 15_000_000;

#[test]
#[ignore = "with scripts/test --full: unoptimized builds are larger"]
fn processor_shim_and_probe_add_at_most_15_mb_to_a_base_image() {
    if !available() || binaries() != root().join("dist") {
        println!("skipped: figures are of the programs in dist (ENGINE_TESTS_RELEASE=1)");
        return;
    }
    let image = python("def handler(context, event):\n    return 'hello'\n");
    let of_base: u64 = docker(&["image", "inspect", "-f", "{{.Size}}", &base("python")]).parse().unwrap();
    let overhead = image.size() - of_base;
    println!("python: {:.1} MB over a base of {:.1} MB", overhead as f64 / 1e6, of_base as f64 / 1e6);
    let mut answered = Vec::new();
    let mut healthy = Vec::new();
    for _ in 0..5 {
        let container = image.function(python_function()).start();
        while !crate::harness::get(container.port(), "/").is_ok_and(|answer| answer.status == 200) {}
        answered.push(container.started.elapsed().as_millis());
        container.wait_healthy();
        healthy.push(container.started.elapsed().as_millis());
    }
    println!("python: run to first 200, ms: {answered:?}; to healthy, interval 1 s, ms: {healthy:?}");
    assert!(overhead <= OVERHEAD_MAX, "{overhead}");
}
