//! The page: what plays a recording, and the recording in it.

use std::io::{self, Write as _};

use flate2::{Compression, write::GzEncoder};
use serde::Serialize;

use crate::Recording;

const PAGE: &str = include_str!("../web/index.html");
const STYLE: &str = include_str!("../web/style.css");
const RECORDING: &str = include_str!("../web/recording.js");
const PLAYER: &str = include_str!("../web/player.js");

/// The whole file.
pub(crate) fn html(recording: &Recording) -> io::Result<String> {
    let mut data = script("head", recording)?;
    for (number, window) in recording.windows.iter().enumerate() {
        data += &script(&format!("window-{number}"), window)?;
    }
    let title = recording.title.replace('&', "&amp;").replace('<', "&lt;");
    // One file: what all pages share is in it, too.
    let style = [tally_pages::BASE_CSS, STYLE].concat();
    let modules = [tally_pages::PARTS_JS, tally_pages::CLUSTER_JS, RECORDING, PLAYER];
    let script = tally_pages::inlined(&modules);
    // In one pass, so that nothing which is put in is looked through for more.
    let mut page = String::with_capacity(PAGE.len() + style.len() + script.len() + data.len());
    let mut rest = PAGE;
    while let Some((before, after)) = rest.split_once("{{") {
        let (name, behind) = after.split_once("}}").expect("the page closes what it opens");
        page += before;
        page += match name {
            "title" => &title,
            "style" => &style,
            "data" => &data,
            "script" => &script,
            other => unreachable!("the page asks for {other}"),
        };
        rest = behind;
    }
    Ok(page + rest)
}

/// Data that no browser runs. Base64 has no sign that could end the element.
fn script(id: &str, data: &impl Serialize) -> io::Result<String> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(&serde_json::to_vec(data).map_err(io::Error::other)?)?;
    let text = base64(&packed.finish()?);
    Ok(format!("<script type=\"application/octet-stream\" id=\"{id}\">{text}</script>\n"))
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const SIGNS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let sign = SIGNS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= three.len() { char::from(sign) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_standard() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }
}
