//! The kickstart trigger: one event when the processor starts. It holds nothing back: other triggers serve meanwhile.

use std::time::SystemTime;

use super::template::{Template, deliver};
use super::{Trigger, TriggerContext};
use crate::config::EventTemplate;

/// Sends nothing yet.
pub(super) fn build(config: &EventTemplate, cx: TriggerContext) -> Trigger {
    let info = cx.info;
    let template = Template::new(config, info);
    let task = async move {
        if cx.shutdown.draining.is_cancelled() {
            return;
        }
        let event = template.event(SystemTime::now(), Vec::new());
        tokio::select! {
            () = deliver(&cx, event, None) => {}
            () = cx.shutdown.kill.cancelled() => {}
        }
    };
    Trigger { info, task: Box::pin(task) }
}
