//! Finding tools by words.
//!
//! Owns the ranking: each word of the query counts most as a word of the name, then as a part of the name, then as a word
//! of the description, then as a part of it; a tool that has more of the words stands before one that has fewer.
//! Invariant: pure and deterministic; of equals the one that is listed first comes first. Never: reads a schema.

/// A tool that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SearchHit {
    /// Its name.
    pub(crate) name: String,
    /// What it says of itself.
    pub(crate) description: String,
}

/// The tools that have any of the words, best first; all of them, in order, if there are no words.
pub(crate) fn rank(query: &str, tools: Vec<SearchHit>) -> Vec<SearchHit> {
    let wanted = words(query);
    if wanted.is_empty() {
        return tools;
    }
    let mut ranked: Vec<_> = tools.into_iter().map(|tool| (score(&wanted, &tool), tool)).collect();
    ranked.retain(|((hits, _), _)| *hits > 0);
    ranked.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
    ranked.into_iter().map(|(_, tool)| tool).collect()
}

/// How many of the words a tool has, and how prominently.
fn score(wanted: &[String], tool: &SearchHit) -> (usize, usize) {
    let (name, description) = (tool.name.to_lowercase(), tool.description.to_lowercase());
    let (in_name, in_description) = (words(&name), words(&description));
    let each = wanted.iter().map(|word| match () {
        () if in_name.contains(word) => 8,
        () if name.contains(word.as_str()) => 4,
        () if in_description.contains(word) => 2,
        () if description.contains(word.as_str()) => 1,
        () => 0,
    });
    each.filter(|score| *score > 0).fold((0, 0), |(hits, sum), score| (hits + 1, sum + score))
}

fn words(text: &str) -> Vec<String> {
    let parts = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    parts.map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(query: &str) -> Vec<String> {
        let tools = [
            ("shop__list_orders", "Lists what was bought"),
            ("files__read_file", "Reads one file"),
            ("files__list_directory", "Lists the files of a directory"),
            ("mail__send", "Sends a message with a file attached"),
        ];
        let tools = tools.map(|(name, description)| SearchHit { name: name.into(), description: description.into() });
        rank(query, tools.into()).into_iter().map(|tool| tool.name).collect()
    }

    #[test]
    fn names_count_more_than_descriptions_and_more_words_more_than_fewer() {
        assert_eq!(found("file"), ["files__read_file", "files__list_directory", "mail__send"]);
        assert_eq!(found("list directory")[0], "files__list_directory");
        assert_eq!(found("SEND, message!"), ["mail__send"]);
        assert_eq!(found("order"), ["shop__list_orders"]);
        assert!(found("weather").is_empty());
        assert_eq!(found(" ").len(), 4);
    }
}
