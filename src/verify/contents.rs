//! Reads objects back: are they whole, and do they hold as many records as they say?

use futures::StreamExt;

use crate::aws::objects::Objects;
use crate::delivery::decode::{count, form};
use crate::delivery::settings::Format;
use crate::fault::CallError;
use crate::verify::tiling::{CoverageProblem, Piece, PieceKind};

/// Objects held at once.
const PARALLEL: usize = 4;

/// Reads every archive and dead-letter object.
///
/// # Errors
/// [`CallError`]
pub async fn check(
    objects: &Objects,
    bucket: &str,
    pieces: impl Iterator<Item = &Piece>,
) -> Result<Vec<CoverageProblem>, CallError> {
    let looks = pieces.filter(|p| p.kind != PieceKind::Upload).map(|piece| async move {
        let body = objects.get(bucket, &piece.key).await?;
        Ok(judge(piece, &body))
    });
    let mut looks = futures::stream::iter(looks).buffer_unordered(PARALLEL);
    let mut problems = Vec::new();
    while let Some(look) = looks.next().await {
        problems.extend(look?);
    }
    Ok(problems)
}

fn judge(piece: &Piece, body: &[u8]) -> Option<CoverageProblem> {
    let bad =
        |reason: String| Some(CoverageProblem::Undecodable { key: piece.key.clone(), reason });
    let Some((format, codec)) = form(&piece.key) else {
        return bad("its name tells no format".into());
    };
    let found = match count(format, codec, body) {
        Ok(Some(found)) => found,
        Ok(None) => return None,
        Err(reason) => return bad(reason),
    };
    let expected = piece.records?;
    // A payload that holds newlines is several lines; fewer lines than records cannot be.
    let fits = match format {
        Format::Ndjson => found >= expected,
        Format::Envelope | Format::JsonArray | Format::Raw => found == expected,
    };
    let differs = || CoverageProblem::Differs {
        key: piece.key.clone(),
        reason: format!("it holds {found} records, its metadata say {expected}"),
    };
    (!fits).then(differs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::object_key::parse_position;
    use crate::ids::ShardId;

    fn look(name: &str, records: u64, body: &[u8]) -> Option<CoverageProblem> {
        let at = |n| parse_position(n).unwrap();
        let piece = Piece {
            key: format!("a/{name}"),
            kind: PieceKind::Archive,
            shard: ShardId::new("s"),
            first: at("1"),
            last: at("2"),
            after: None,
            records: Some(records),
            batch: None,
        };
        judge(&piece, body)
    }

    #[test]
    fn counts_are_compared_as_far_as_the_format_tells() {
        assert_eq!(look("x.ndjson", 2, b"a\nb\n"), None);
        assert_eq!(look("x.ndjson", 1, b"a\nb\n"), None);
        assert!(matches!(look("x.ndjson", 3, b"a\nb\n"), Some(CoverageProblem::Differs { .. })));
        assert!(matches!(look("x.json", 1, b"[1,2]"), Some(CoverageProblem::Differs { .. })));
        assert_eq!(look("x.raw", 1, b"ab"), None);
        assert!(matches!(look("x.json", 1, b"[1"), Some(CoverageProblem::Undecodable { .. })));
        assert!(matches!(look("x.ndjson.zst", 1, b"a"), Some(CoverageProblem::Undecodable { .. })));
    }
}
