//! The parser's input, with one rule of its own relaxed: `key:<TAB>value` is a key and a value.
//!
//! The Go library reads a tab behind the colon as a blank, and writers of JSON put one there.

use saphyr_parser::StrInput;
use saphyr_parser::input::{Input, SkipTabs};

/// A text whose tabs between tokens separate like blanks.
pub(super) struct TabsAreBlanks<'a>(StrInput<'a>);

impl<'a> TabsAreBlanks<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self(StrInput::new(text))
    }
}

impl Input for TabsAreBlanks<'_> {
    fn skip_ws_to_eol(&mut self, skip_tabs: SkipTabs) -> (usize, Result<SkipTabs, &'static str>) {
        let (skipped, found) = self.0.skip_ws_to_eol(skip_tabs);
        let found = found.map(|found| {
            let tab = found.found_tabs();
            SkipTabs::Result(tab, tab || found.has_valid_yaml_ws())
        });
        (skipped, found)
    }

    fn lookahead(&mut self, count: usize) {
        self.0.lookahead(count);
    }

    fn buflen(&self) -> usize {
        self.0.buflen()
    }

    fn bufmaxlen(&self) -> usize {
        self.0.bufmaxlen()
    }

    fn raw_read_ch(&mut self) -> char {
        self.0.raw_read_ch()
    }

    fn raw_read_non_breakz_ch(&mut self) -> Option<char> {
        self.0.raw_read_non_breakz_ch()
    }

    fn skip(&mut self) {
        self.0.skip();
    }

    fn skip_n(&mut self, count: usize) {
        self.0.skip_n(count);
    }

    fn peek(&self) -> char {
        self.0.peek()
    }

    fn peek_nth(&self, n: usize) -> char {
        self.0.peek_nth(n)
    }

    fn peek_opt(&self) -> Option<char> {
        self.0.peek_opt()
    }
}
