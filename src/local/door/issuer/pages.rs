//! The two pages of the issuer.

const STYLE: &str = include_str!("../assets/issuer.css");

/// Makes text safe inside HTML text and attributes.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c => safe.push(c),
        }
    }
    safe
}

fn page(title: &str, content: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style></head><body><main>{content}</main></body></html>\n"
    )
}

/// The login form; posts to the address it was served from. `query` goes back unchanged.
pub(super) fn login(client: &str, query: &str, failed: bool, username: &str) -> String {
    let (problem, described, focus) = if failed {
        (
            "<p id=\"problem\" role=\"alert\">Incorrect username or password.</p>",
            " aria-invalid=\"true\" aria-describedby=\"problem\"",
            ("", " autofocus"),
        )
    } else {
        ("", "", (" autofocus", ""))
    };
    page(
        "Sign in – Catchment",
        &format!(
            "<h1>Sign in</h1><p>to <strong>{client}</strong>, on this machine only</p>{problem}\
             <form method=\"post\" action=\"/login?{query}\">\
             <label for=\"username\">Username</label>\
             <input id=\"username\" name=\"username\" value=\"{username}\" autocomplete=\"username\" \
             autocapitalize=\"none\" spellcheck=\"false\" required{described}{first}>\
             <label for=\"password\">Password</label>\
             <input id=\"password\" name=\"password\" type=\"password\" \
             autocomplete=\"current-password\" required{described}{second}>\
             <button type=\"submit\">Sign in</button></form>",
            client = escape(client),
            query = escape(query),
            username = escape(username),
            first = focus.0,
            second = focus.1,
        ),
    )
}

/// Shown when sending the browser back would not be safe.
pub(super) fn refusal(reason: &str) -> String {
    page(
        "Not possible – Catchment",
        &format!("<h1>This sign-in cannot go on</h1><p role=\"alert\">{}</p>", escape(reason)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_given_becomes_markup() {
        let html = login("<b>", "state=\"><script>", true, "'\"><img>");
        assert!(!html.contains("<script>") && !html.contains("<img>") && !html.contains("<b>"));
        assert!(!refusal("<script>").contains("<script>"));
    }
}
