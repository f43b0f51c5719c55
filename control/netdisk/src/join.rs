//! `netdisk join`: this machine becomes a node of a cluster, by a token.

use crate::change;
use crate::change::show::differences;
use crate::random::random;
use crate::table::link::place;
use anyhow::{Context, bail, ensure};
use control_node::genesis::Genesis;
use control_node::join::{
    Fingerprint, JoinAnswer, JoinRequest, JoinToken, RailAddressAsked, Welcome, Would, knock,
};
use control_proto::ccd::{Change, Command, Database};
use serde_json::json;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// How long one goes on asking a cluster that cannot decide.
const ASK_TIME_MAX: Duration = Duration::from_secs(60);
/// Between two rounds of asking.
const ASK_PAUSE: Duration = Duration::from_millis(300);
/// What this machine chose at random before it first asked; until it has joined.
const NONCE_FILE: &str = "joining";

/// Become a node of a cluster.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// A token, made by `netdisk cluster token` on a node of the cluster.
    token: JoinToken,
    /// This node's name.
    #[arg(long)]
    node: String,
    /// This machine's address, as the other nodes reach it.
    #[arg(long)]
    host: IpAddr,
    /// Where a rail ends here, if not at the host by the cluster's ports: `LINK.RAIL=ADDRESS[:PORT]`.
    #[arg(long = "rail", value_name = "RAIL")]
    rails: Vec<RailHere>,
    /// This node's number; the next free one if left out.
    #[arg(long)]
    id: Option<u16>,
    /// First of this node's 64 ports; by the cluster's scheme if left out.
    #[arg(long)]
    port_base: Option<u16>,
    /// Folder for what must survive a restart.
    #[arg(long, value_name = "FOLDER")]
    state: PathBuf,
    /// Only print the rows that would change. The token stays good.
    #[arg(long)]
    dry_run: bool,
    /// What happened, as JSON.
    #[arg(long)]
    json: bool,
}

/// A rail's end as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RailHere(RailAddressAsked);

impl FromStr for RailHere {
    type Err = String;

    fn from_str(text: &str) -> Result<RailHere, String> {
        let wrong = || format!("{text:?} is no LINK.RAIL=ADDRESS[:PORT], such as 0.1=10.1.0.3");
        let (path, address) = text.split_once('=').ok_or_else(wrong)?;
        let (link, rail) = path.split_once('.').ok_or_else(wrong)?;
        let (link, rail) = (link.parse().map_err(|_| wrong())?, rail.parse().map_err(|_| wrong())?);
        let (ip, port) = place(address).ok_or_else(wrong)?;
        Ok(RailHere(RailAddressAsked { link, rail, ip, port, heartbeat: None }))
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let folder = &arguments.state;
    if let Some(there) = Genesis::load(folder)? {
        bail!(
            "{} is {} of cluster {} already: start it (netdisk node run --state {}), or choose another \
             --state",
            folder.display(),
            there.node,
            there.name,
            folder.display()
        );
    }
    let nonce = match arguments.dry_run {
        // Nothing is to be remembered of it.
        true => random()?,
        false => {
            std::fs::create_dir_all(folder).with_context(|| {
                format!("cannot make {}: choose another folder with --state", folder.display())
            })?;
            nonce(folder, &arguments.token)?
        }
    };
    let request = JoinRequest {
        nonce,
        release: env!("CARGO_PKG_VERSION").into(),
        name: arguments.node.clone(),
        host: arguments.host,
        id: arguments.id,
        port_base: arguments.port_base,
        rails: arguments.rails.iter().map(|rail| rail.0).collect(),
        dry_run: arguments.dry_run,
    };
    let welcome = match ask_all(&arguments.token, &request)? {
        Said::Welcome(welcome) => welcome,
        Said::Would(would) => return show(&would, arguments.json),
    };
    settle(folder, &arguments.token, &welcome)?;
    let folder = folder.display();
    if arguments.json {
        println!(
            "{}",
            json!({ "cluster": welcome.cluster, "node": welcome.node, "state": folder.to_string() })
        );
    } else {
        println!("this machine is node {} of cluster {}. Next:", welcome.node, welcome.cluster);
        println!("  netdisk node run --state {folder}");
    }
    Ok(ExitCode::SUCCESS)
}

/// What the cluster says when it does not refuse.
enum Said {
    Welcome(Welcome),
    Would(Would),
}

/// Prints what joining would change.
fn show(would: &Would, as_json: bool) -> anyhow::Result<ExitCode> {
    let other = "the node is of another release";
    let database = Database::restore(&would.database).context(other)?;
    let Change::Join { changes, .. } = Command::decode(&would.command).context(other)?.change else {
        bail!("{other}");
    };
    let shown = differences(&database, &changes);
    match as_json {
        true => println!("{}", json!({ "dry_run": true, "changes": change::show::json(&shown) })),
        false => println!("{}nothing was changed", change::show::text(&shown)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks one contact after the other, until one of them speaks for the cluster.
fn ask_all(token: &JoinToken, request: &JoinRequest) -> anyhow::Result<Said> {
    let until = Instant::now() + ASK_TIME_MAX;
    loop {
        let mut silent = Vec::new();
        let mut later = None;
        for contact in &token.contacts {
            match knock(*contact, token, request) {
                Ok(JoinAnswer::Welcome(welcome)) => return Ok(Said::Welcome(*welcome)),
                Ok(JoinAnswer::Would(would)) => return Ok(Said::Would(*would)),
                Ok(JoinAnswer::Refused { why }) => bail!("the cluster refuses: {why}"),
                Ok(JoinAnswer::Later { why }) => later = Some(why),
                Err(fault) => silent.push(format!("{contact}: {fault}")),
            }
        }
        match later {
            Some(why) if Instant::now() >= until => {
                bail!("the cluster cannot decide now: {why}; try again later")
            }
            Some(_) => std::thread::sleep(ASK_PAUSE),
            None => bail!(
                "no node of the cluster let this machine in: {}. Is one of them running, is this the whole \
                 token, and is the way to it open? A new token: netdisk cluster token",
                silent.join("; ")
            ),
        }
    }
}

/// The number by which the cluster knows this machine again if an answer is lost; chosen once for each token.
fn nonce(folder: &Path, token: &JoinToken) -> anyhow::Result<[u8; 16]> {
    let path = folder.join(NONCE_FILE);
    if let Ok(bytes) = std::fs::read(&path)
        && let Some((id, nonce)) = bytes.split_first_chunk::<16>()
        && *id == token.id.0
        && nonce.len() == 16
    {
        let mut known = [0; 16];
        known.copy_from_slice(nonce);
        return Ok(known);
    }
    let nonce: [u8; 16] = random()?;
    let write = || -> std::io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(&[token.id.0, nonce].concat())?;
        file.sync_all()
    };
    write()
        .with_context(|| format!("cannot write {}: choose another folder with --state", path.display()))?;
    Ok(nonce)
}

/// Writes down what the cluster said, the genesis last: with it the folder is a node's.
fn settle(folder: &Path, token: &JoinToken, welcome: &Welcome) -> anyhow::Result<()> {
    let genesis = Genesis::decode(&folder.join("the answer"), &welcome.genesis)?;
    ensure!(
        Fingerprint::of(&genesis.key) == token.fingerprint && genesis.node.0 == welcome.node,
        "the answer is not of the cluster that gave the token: ask there for a new one"
    );
    control_node::arrival::mark(folder).with_context(|| {
        format!("cannot write to {}: choose another folder with --state", folder.display())
    })?;
    genesis.store(folder)?;
    // Not needed any more; if it stays, it does no harm.
    let _ = std::fs::remove_file(folder.join(NONCE_FILE));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

    use super::*;
    use control_node::join::{TokenId, TokenSecret};
    use transport_proto::cluster_key::ClusterKey;

    #[test]
    fn ends_of_rails_are_read() {
        let rail: RailHere = "1.0=10.1.0.3:7001".parse().unwrap();
        let ip = "10.1.0.3".parse().unwrap();
        assert_eq!(rail.0, RailAddressAsked { link: 1, rail: 0, ip, port: Some(7001), heartbeat: None });
        for text in ["1=10.1.0.3", "1.0", "1.0=here", "a.b=10.0.0.1", "1.999=10.0.0.1", ""] {
            assert!(text.parse::<RailHere>().unwrap_err().contains("LINK.RAIL"), "{text}");
        }
    }

    #[test]
    fn a_machine_that_asks_again_is_known_again_and_each_token_has_its_own_number() {
        let folder = std::env::temp_dir().join(format!("netdisk-join-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let token = |id: u8| {
            let key = ClusterKey::derive("north", b"0123456789abcdef");
            let id = TokenId([id; 16]);
            JoinToken {
                id,
                secret: TokenSecret::of(&key, id),
                fingerprint: Fingerprint::of(&key),
                expires_unix_ms: 0,
                contacts: vec!["127.0.0.1:9".parse().unwrap()],
            }
        };
        let first = nonce(&folder, &token(1)).unwrap();
        assert_eq!(nonce(&folder, &token(1)).unwrap(), first);
        assert_ne!(nonce(&folder, &token(2)).unwrap(), first);
        std::fs::write(folder.join(NONCE_FILE), b"short").unwrap();
        assert_ne!(nonce(&folder, &token(1)).unwrap(), first);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
