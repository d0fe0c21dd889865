//! Which known word a mistyped one may mean.

/// The word that differs least from what is written, case aside, when the difference is small.
pub(crate) fn nearest<'a>(written: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_lowercase();
    // A third of the letters: one in a short word, three in a long one.
    let most = (written.chars().count() / 3).clamp(1, 3);
    // Words of quite another length are not compared: a file may hold thousands of unknown keys.
    let length = written.chars().count();
    let words = words.into_iter().filter(|word| word.chars().count().abs_diff(length) <= most);
    let distances = words.map(|word| (distance(&written, &word.to_lowercase()), word));
    let close = distances.filter(|(distance, word)| *distance <= most && *distance < word.chars().count());
    close.min_by_key(|(distance, _)| *distance).map(|(_, word)| word)
}

/// Letters to insert, delete, replace, or swap with their neighbour.
fn distance(from: &str, to: &str) -> usize {
    // A key may be as long as the file; nothing of ours is.
    const LETTERS_MAX: usize = 100;
    let from: Vec<char> = from.chars().take(LETTERS_MAX).collect();
    let to: Vec<char> = to.chars().take(LETTERS_MAX).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for (row, letter) in from.iter().enumerate() {
        let mut line = vec![row + 1];
        for (column, other) in to.iter().enumerate() {
            let replaced = last[column] + usize::from(letter != other);
            let mut least = replaced.min(last[column + 1] + 1).min(line[column] + 1);
            let swapped = row > 0 && column > 0 && from[row - 1] == *other && to[column - 1] == *letter;
            if swapped {
                least = least.min(before[column - 1] + 1);
            }
            line.push(least);
        }
        before = std::mem::replace(&mut last, line);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_mistakes_find_their_word_and_other_words_find_none() {
        let words = ["numWorkers", "maxWorkers", "url", "kind", "batch", "readBufferSize"];
        let cases = [
            ("numWorker", Some("numWorkers")),
            ("num_workers", Some("numWorkers")),
            ("nmuWorkers", Some("numWorkers")),
            ("readBuffersize ", Some("readBufferSize")),
            ("knid", Some("kind")),
            ("uri", Some("url")),
            ("owner", None),
            ("x", None),
            ("", None),
            ("notAField", None),
        ];
        for (written, expected) in cases {
            assert_eq!(nearest(written, words), expected, "{written}");
        }
        assert_eq!(nearest(&"k".repeat(100_000), words), None);
    }

    #[test]
    fn distances_count_single_mistakes() {
        for (from, to, expected) in
            [("", "abc", 3), ("abc", "abc", 0), ("acb", "abc", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(from, to), expected, "{from} {to}");
        }
    }
}
