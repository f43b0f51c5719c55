//! `netdisk cluster token`: an invitation for one machine.

use crate::change::Look;
use crate::daemon::{Daemon, request};
use anyhow::{Context, ensure};
use control_node::admin::Request;
use control_node::join::JoinToken;
use control_proto::ccd::{Change, TokenHash, TokenRow};
use serde_json::{Value, json};
use std::process::ExitCode;
use transport_proto::identity::NodeId;

/// Seconds of a token at the most.
const EXPIRES_S_MAX: u64 = 30 * 24 * 3600;

/// Make a token by which one more machine joins, once.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// How long it is good, in seconds or with m, h, d.
    #[arg(long, default_value = "1h")]
    expires: String,
    /// The number that the new node must have.
    #[arg(long, value_name = "NUMBER")]
    node_id: Option<u16>,
    #[command(flatten)]
    look: Look,
}

/// Seconds of a span such as `10m`.
fn seconds(text: &str) -> anyhow::Result<u64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        other => anyhow::bail!("unit {other:?} is unknown: use s, m, h or d"),
    };
    let count = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
    let seconds = count.with_context(|| format!("{text:?} is no time: write 10m, 1h or 2d"))?;
    ensure!((1..=EXPIRES_S_MAX).contains(&seconds), "a token is good for 1s to 30d, not {text}");
    Ok(seconds)
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let expires_s = seconds(&arguments.expires)?;
    let mut daemon = Daemon::of(&arguments.look.which)?;
    let answer = request(&daemon.socket, &Request::Invite { expires_s })?;
    let text = answer.get("token").and_then(Value::as_str).context("the node is of another release")?;
    let token: JoinToken = text.parse()?;
    daemon.decided(Change::CreateToken(TokenRow {
        hash: TokenHash::of(&token.secret.0),
        expires_unix_ms: token.expires_unix_ms,
        expires_index: 0,
        node: arguments.node_id.map(NodeId),
        used: None,
    }))?;
    if arguments.look.json {
        let contacts: Vec<String> = token.contacts.iter().map(ToString::to_string).collect();
        println!(
            "{}",
            json!({ "token": text, "expires_unix_ms": token.expires_unix_ms, "contacts": contacts })
        );
    } else {
        // The token alone on standard output, so that it can be caught.
        println!("{text}");
        eprintln!(
            "good once, for {}; on the new machine: netdisk join TOKEN --node NAME --host ADDRESS \
             --state FOLDER",
            arguments.expires
        );
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::*;

    #[test]
    fn spans_are_read_with_their_units_and_limits() {
        assert_eq!(
            (seconds("90").unwrap(), seconds("10m").unwrap(), seconds("2d").unwrap()),
            (90, 600, 172_800)
        );
        for (text, why) in
            [("", "no time"), ("x", "unknown"), ("1y", "unknown"), ("0s", "1s to 30d"), ("31d", "30d")]
        {
            assert!(seconds(text).unwrap_err().to_string().contains(why), "{text}");
        }
        assert!(seconds("99999999999999999999d").is_err());
    }
}
