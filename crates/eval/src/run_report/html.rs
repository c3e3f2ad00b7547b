//! Pieces of HTML, with everything in them escaped.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Text that is text in HTML, also inside quotes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// A table with a head. Cells are text.
pub(super) fn table(head: &[impl AsRef<str>], rows: &[Vec<String>]) -> String {
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| -> String {
        cells.map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect()
    };
    let body: String = rows
        .iter()
        .map(|row| format!("<tr>{}</tr>\n", cells("td", &mut row.iter().map(String::as_str))))
        .collect();
    let head = cells("th", &mut head.iter().map(AsRef::as_ref));
    format!(
        "<div class=\"wide\"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
    )
}

/// A figure with a caption: `content` is HTML, `caption` text.
pub(super) fn figure(content: &str, caption: &str) -> String {
    format!("<figure>{content}<figcaption>{}</figcaption></figure>\n", escape(caption))
}

/// A PNG inside the page.
pub(super) fn png(bytes: &[u8], description: &str) -> String {
    format!("<img alt=\"{}\" src=\"data:image/png;base64,{}\">", escape(description), STANDARD.encode(bytes))
}

/// A paragraph of text.
pub(super) fn paragraph(text: &str) -> String {
    format!("<p>{}</p>\n", escape(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_is_markup() {
        let text = r#"<script>alert("1 & '2'")</script>"#;
        let escaped = escape(text);
        assert!(!escaped.contains(['<', '>', '"', '\'']), "{escaped}");
        for html in [table(&[text], &[vec![text.into()]]), figure("", text), png(b"", text), paragraph(text)]
        {
            assert!(!html.contains("<script"), "{html}");
        }
    }
}
