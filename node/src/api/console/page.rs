//! The page itself, which is in the binary, with what it shares with the lab and the player.

use http::StatusCode;

use crate::port::plain::Page;

/// The page runs its own scripts and asks its own node; nothing else is run, loaded, asked or framed.
const PAGE: &[(&str, &str)] = &[
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
];

const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// What is at a path, if it is of the page.
pub(super) fn of(path: &str) -> Option<Page> {
    let (content_type, body) = match path {
        "/" => ("text/html; charset=utf-8", include_str!("page/index.html")),
        "/base.css" => (STYLE, tally_pages::BASE_CSS),
        "/parts.js" => (SCRIPT, tally_pages::PARTS_JS),
        "/console.css" => (STYLE, include_str!("page/console.css")),
        "/console.js" => (SCRIPT, include_str!("page/console.js")),
        "/ask.js" => (SCRIPT, include_str!("page/ask.js")),
        "/metrics.js" => (SCRIPT, include_str!("page/metrics.js")),
        "/browse.js" => (SCRIPT, include_str!("page/browse.js")),
        "/members.js" => (SCRIPT, include_str!("page/members.js")),
        "/replace.js" => (SCRIPT, include_str!("page/replace.js")),
        _ => return None,
    };
    Some(Page { status: StatusCode::OK, content_type, body: body.to_owned(), headers: PAGE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_page_loads_is_there() {
        let (mut wanted, mut seen) = (vec!["/".to_owned()], Vec::new());
        while let Some(path) = wanted.pop() {
            let page = of(&path).unwrap_or_else(|| panic!("{path} is not served"));
            let names = ["from './", "href=\"/", "src=\"/"];
            let named = names.iter().flat_map(|before| page.body.split(before).skip(1));
            let named = named.filter_map(|rest| rest.split(['\'', '"']).next());
            let named = named.map(|name| format!("/{name}"));
            wanted.extend(named.filter(|name| !seen.contains(name)));
            seen.push(path);
        }
        for path in ["/base.css", "/parts.js", "/members.js", "/replace.js"] {
            assert!(seen.iter().any(|one| one == path), "{path} is loaded");
        }
    }
}
