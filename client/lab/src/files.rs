//! What the page is made of: its own files, and what all pages of Tally share. Nothing comes from elsewhere.

/// Path, type and text of each file.
pub(crate) const ALL: [(&str, &str, &str); 16] = [
    ("index.html", "text/html; charset=utf-8", include_str!("../web/index.html")),
    ("icon.svg", "image/svg+xml", include_str!("../web/icon.svg")),
    ("base.css", "text/css; charset=utf-8", tally_pages::BASE_CSS),
    ("style.css", "text/css; charset=utf-8", include_str!("../web/style.css")),
    ("parts.js", JAVASCRIPT, tally_pages::PARTS_JS),
    ("cluster.js", JAVASCRIPT, tally_pages::CLUSTER_JS),
    ("lab.js", JAVASCRIPT, include_str!("../web/lab.js")),
    ("lanes.js", JAVASCRIPT, include_str!("../web/lanes.js")),
    ("lesson.js", JAVASCRIPT, include_str!("../web/lesson.js")),
    ("lessons.js", JAVASCRIPT, include_str!("../web/lessons.js")),
    ("main.js", JAVASCRIPT, include_str!("../web/main.js")),
    ("messages.js", JAVASCRIPT, include_str!("../web/messages.js")),
    ("meters.js", JAVASCRIPT, include_str!("../web/meters.js")),
    ("picture.js", JAVASCRIPT, include_str!("../web/picture.js")),
    ("plan.js", JAVASCRIPT, include_str!("../web/plan.js")),
    ("scene.js", JAVASCRIPT, include_str!("../web/scene.js")),
];

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_file_loads_is_there() {
        for (path, _, text) in ALL {
            let named =
                ["from './", "href=\"/", "src=\"/"].map(|before| text.split(before).skip(1));
            for name in
                named.into_iter().flatten().filter_map(|rest| rest.split(['\'', '"']).next())
            {
                assert!(ALL.iter().any(|(other, ..)| *other == name), "{path} loads {name}");
            }
        }
    }
}
