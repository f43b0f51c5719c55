//! How a machine becomes a node of a running cluster (SPEC C3, C5): it shows a token at the join port of any
//! node, and gets what it needs to start: the cluster's key, its number, the rows.
//!
//! | file | what it is |
//! |---|---|
//! | `token.rs` | the word that an operator carries from a node to the new machine |
//! | `request.rs` | what the machine wants, and what it is told |
//! | `rows.rs` | from the wish to rows |
//! | `exchange.rs` | the conversation, proven both ways and hidden, over any stream |
//! | `keeper.rs` | the cluster's word about those who knock |
//! | `door.rs` | the join port: a few conversations at once, each with a limit of time |

mod door;
mod exchange;
mod keeper;
mod request;
mod rows;
mod token;

pub use door::{Door, DoorRefusal, Doorkeeper, knock};
pub use exchange::{ANSWER_BYTES_MAX, ExchangeFault, REQUEST_BYTES_MAX};
pub(crate) use keeper::Keeper;
pub use request::{JoinAnswer, JoinRequest, RailAddressAsked, Welcome, Would};
pub use rows::{NewcomerRefusal, newcomer};
pub use token::{CONTACTS_MAX, Fingerprint, JoinToken, TokenFault, TokenId, TokenSecret};
