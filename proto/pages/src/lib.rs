//! What the pages of Tally have in common: the lab (`client/lab`), the player of recordings (`client/player`) and a
//! node's console (`node/src/api/console`).
//!
//! One palette, light and dark, one look of tables, forms and legends; and one drawing of nodes, of links and their
//! cuts, of messages by their kind, of logs and of what came of a call. Whoever knows one of the pages can read the
//! others.
//!
//! It is text, and each page takes what it needs: as files of their own beside those of the page, or within it, where
//! a page has to be one file ([`inlined`]).

/// The look: a style sheet, to be followed by the page's own.
pub const BASE_CSS: &str = include_str!("../web/base.css");

/// `parts.js`: elements, inks, words and marks, tables, logs and calls.
pub const PARTS_JS: &str = include_str!("../web/parts.js");

/// `cluster.js`: the picture of nodes and links. Imports `parts.js`.
pub const CLUSTER_JS: &str = include_str!("../web/cluster.js");

/// Modules as one script, which imports nothing: each comes behind those that it imports, and no two have the same
/// name for different things. A statement that imports or exports begins its line, and the former has only one.
pub fn inlined(modules: &[&str]) -> String {
    let mut script = String::with_capacity(modules.iter().map(|module| module.len()).sum());
    for line in modules.iter().flat_map(|module| module.lines()) {
        if line.starts_with("import ") {
            continue;
        }
        script += line.strip_prefix("export ").unwrap_or(line);
        script.push('\n');
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_of_several_modules_imports_and_exports_nothing() {
        let script = inlined(&[PARTS_JS, CLUSTER_JS, "import { $ } from './parts.js';\n$('a');"]);
        assert!(
            script.lines().all(|line| !line.starts_with("import") && !line.starts_with("export"))
        );
        assert!(script.contains("\nconst $ = id"), "what was exported is there");
        assert!(script.ends_with("$('a');\n"));
    }

    #[test]
    fn both_schemes_have_the_same_inks() {
        let inks = |scheme: &str| {
            let names = scheme.split("--").skip(1).filter_map(|ink| ink.split_once(':'));
            let mut names: Vec<_> = names.map(|(name, _)| name.to_owned()).collect();
            names.sort();
            names
        };
        let root = |at: usize| {
            let scheme = BASE_CSS.split(":root {").nth(at).expect("there is one");
            scheme.split_once('}').expect("it ends").0
        };
        let (light, dark) = (inks(root(1)), inks(root(2)));
        assert_eq!(light, dark);
        // And whoever draws on a canvas gets all of them.
        assert!(light.iter().all(|ink| PARTS_JS.contains(&format!("'{ink}'"))), "{light:?}");
    }
}
