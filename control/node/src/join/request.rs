//! What a newcomer asks for and what it is told, as it travels inside the conversation.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// What a machine wants to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// Random, and the same whenever this machine asks again since an answer was lost: it then gets the same
    /// answer instead of a second node.
    pub nonce: [u8; 16],
    /// Its release, for the log.
    pub release: String,
    /// Name of the node to be.
    pub name: String,
    /// Its address.
    pub host: IpAddr,
    /// Its number; the next free one if it does not care.
    pub id: Option<u16>,
    /// First of its 64 ports; by the cluster's scheme if it does not care.
    pub port_base: Option<u16>,
    /// Addresses of rails that differ from the scheme.
    pub rails: Vec<RailAddressAsked>,
    /// Only to hear what joining would change.
    #[serde(default)]
    pub dry_run: bool,
}

/// Where one rail ends at the newcomer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RailAddressAsked {
    /// Logical link.
    pub link: u8,
    /// Rail of it.
    pub rail: u8,
    /// Address.
    pub ip: IpAddr,
    /// Port; by the scheme if it does not care.
    pub port: Option<u16>,
    /// Where its heartbeats go; the rail's address and the port after it, if it does not care.
    pub heartbeat: Option<SocketAddr>,
}

/// What the cluster says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JoinAnswer {
    /// You are one of us.
    Welcome(Box<Welcome>),
    /// You would be, by these changes. Nothing changed.
    Would(Box<Would>),
    /// No, and nothing changed.
    Refused {
        /// Why, and what to do.
        why: String,
    },
    /// Nobody can say at the moment: ask again, here or elsewhere, with the same nonce.
    Later {
        /// Why.
        why: String,
    },
}

/// What joining would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Would {
    /// The database now, as a snapshot.
    #[serde(with = "hex")]
    pub database: Vec<u8>,
    /// The entry of the log that joining would be, encoded.
    #[serde(with = "hex")]
    pub command: Vec<u8>,
}

/// All that a machine needs to start as a node.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The cluster's name.
    pub cluster: String,
    /// The newcomer's number.
    pub node: u16,
    /// The node's genesis: key, first rows, the database now, and who it is. As its state folder keeps it.
    #[serde(with = "hex")]
    pub genesis: Vec<u8>,
}

/// Bytes as hexadecimal digits.
mod hex {
    use crate::admin::{of_hex, to_hex};
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to_hex(bytes).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(from)?;
        of_hex(&text).ok_or_else(|| D::Error::custom("no hexadecimal digits"))
    }
}

impl std::fmt::Debug for Welcome {
    /// Without the genesis, which holds the cluster's key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Welcome(node {} of {})", self.node, self.cluster)
    }
}
