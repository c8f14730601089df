//! File name extensions for media types.

/// The extension of an object with this content type; `txt` when nothing better is known.
pub fn extension(content_type: &str) -> &'static str {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/gzip" | "application/x-gzip" => "gz",
        "application/json" => "json",
        "application/jsonl" | "application/x-ndjson" => "ndjson",
        "application/octet-stream" => "bin",
        "application/pdf" => "pdf",
        "application/vnd.apache.parquet" => "parquet",
        "application/vnd.ms-excel" => "xls",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet" => "xlsx",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document" => "docx",
        "application/xml" | "text/xml" => "xml",
        "application/yaml" | "text/yaml" => "yaml",
        "application/zip" => "zip",
        "application/zstd" => "zst",
        "audio/mpeg" => "mp3",
        "audio/ogg" => "ogg",
        "audio/wav" => "wav",
        "image/avif" => "avif",
        "image/gif" => "gif",
        "image/jpeg" => "jpg",
        "image/png" => "png",
        "image/svg+xml" => "svg",
        "image/webp" => "webp",
        "text/css" => "css",
        "text/csv" => "csv",
        "text/html" => "html",
        "text/javascript" => "js",
        "text/markdown" => "md",
        "video/mp4" => "mp4",
        "video/webm" => "webm",
        other if other.ends_with("+json") => "json",
        other if other.ends_with("+xml") => "xml",
        _ => "txt",
    }
}

#[cfg(test)]
mod tests {
    use super::extension;

    #[test]
    fn known_and_unknown() {
        for (content_type, expected) in [
            ("text/plain; charset=utf-8", "txt"),
            ("IMAGE/PNG", "png"),
            ("application/problem+json; a=b", "json"),
            ("application/x-www-form-urlencoded", "txt"),
            ("made/up", "txt"),
            ("", "txt"),
        ] {
            assert_eq!(extension(content_type), expected, "{content_type}");
        }
    }
}
