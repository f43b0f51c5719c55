//! One simulated queue: what was posted on it, and what came to its end.

use super::network::Owner;
use crate::fabric::{
    Completed, Completion, CompletionFault, DeviceId, FabricFault, QueueDepth, QueueEnd, ReceiveRequest,
    SendRequest,
};
use std::collections::VecDeque;

/// How far a queue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Made; receives may be posted.
    Init,
    /// Connecting, until that step.
    Connecting {
        /// When it is connected.
        due: u64,
    },
    /// Connected.
    Ready,
    /// Failed.
    Error,
    /// Destroyed. Its place is used again.
    Destroyed,
}

/// A send whose end is not yet known to its sender.
#[derive(Clone, Debug)]
pub(super) struct Outstanding {
    pub(super) request: SendRequest,
    /// Its bytes, if they were copied when it was posted.
    pub(super) inline: Option<Vec<u8>>,
    /// When it reaches the peer.
    pub(super) due: u64,
    /// Carried out at the peer; its answer is here at that step.
    pub(super) answer: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Queue {
    pub(super) owner: Owner,
    pub(super) device: DeviceId,
    pub(super) end: QueueEnd,
    pub(super) depth: QueueDepth,
    pub(super) state: State,
    pub(super) peer: Option<QueueEnd>,
    /// Number of the next packet that is sent, and of the next that is taken.
    pub(super) send_sequence: u32,
    pub(super) receive_sequence: u32,
    pub(super) receives: VecDeque<ReceiveRequest>,
    pub(super) sends: VecDeque<Outstanding>,
    /// Sends that occupy the queue: ended silently or not, until a signalled one after them was polled.
    pub(super) occupied: VecDeque<u64>,
    /// Completions, each visible from a step on.
    completions: VecDeque<(u64, Completion)>,
    pub(super) armed: bool,
}

impl Queue {
    pub(super) fn new(owner: Owner, device: DeviceId, end: QueueEnd, depth: QueueDepth) -> Queue {
        Queue {
            owner,
            device,
            end,
            depth,
            state: State::Init,
            peer: None,
            send_sequence: 0,
            receive_sequence: 0,
            receives: VecDeque::new(),
            sends: VecDeque::new(),
            occupied: VecDeque::new(),
            completions: VecDeque::new(),
            armed: false,
        }
    }

    /// Takes a send. A real queue's user finds out that it is full as here: by an error.
    pub(super) fn push_send(
        &mut self,
        request: SendRequest,
        inline: Option<Vec<u8>>,
        now: u64,
        due: u64,
    ) -> Result<(), FabricFault> {
        if self.occupied.len() >= self.depth.sends as usize {
            return Err(FabricFault::Exhausted);
        }
        self.occupied.push_back(request.id);
        match self.state {
            State::Ready => self.sends.push_back(Outstanding { request, inline, due, answer: None }),
            State::Error => self.complete(now, request.id, Err(CompletionFault::Flushed)),
            _ => return Err(FabricFault::Device),
        }
        Ok(())
    }

    pub(super) fn push_receive(&mut self, request: ReceiveRequest, now: u64) -> Result<(), FabricFault> {
        if self.receives.len() >= self.depth.receives as usize {
            return Err(FabricFault::Exhausted);
        }
        match self.state {
            State::Error => self.complete(now, request.id, Err(CompletionFault::Flushed)),
            State::Destroyed => return Err(FabricFault::Device),
            _ => self.receives.push_back(request),
        }
        Ok(())
    }

    /// A request came to its end; told from step `visible` on.
    pub(super) fn complete(&mut self, visible: u64, id: u64, result: Result<Completed, CompletionFault>) {
        // A completion queue keeps its order.
        let visible = self.completions.back().map_or(visible, |(before, _)| visible.max(*before));
        self.completions.push_back((visible, Completion { id, result }));
    }

    /// Moves to error: the oldest send that is not through ends with `first`, all others come back.
    pub(super) fn fail(&mut self, now: u64, first: CompletionFault) {
        if matches!(self.state, State::Error | State::Destroyed) {
            return;
        }
        self.state = State::Error;
        for (number, send) in core::mem::take(&mut self.sends).into_iter().enumerate() {
            let fault = if number == 0 { first } else { CompletionFault::Flushed };
            self.complete(now, send.request.id, Err(fault));
        }
        for receive in core::mem::take(&mut self.receives) {
            self.complete(now, receive.id, Err(CompletionFault::Flushed));
        }
    }

    /// Takes what is visible by now.
    pub(super) fn take(&mut self, now: u64, out: &mut [Completion]) -> usize {
        let mut count = 0;
        while count < out.len() && self.has_visible(now) {
            let Some((_, completion)) = self.completions.pop_front() else { break };
            // Polling a send's completion frees the places of all sends up to it.
            if self.occupied.contains(&completion.id) {
                while self.occupied.pop_front().is_some_and(|id| id != completion.id) {}
            }
            out[count] = completion;
            count += 1;
        }
        count
    }

    /// The step at which the next completion becomes visible.
    pub(super) fn next_visible(&self) -> Option<u64> {
        self.completions.front().map(|(visible, _)| *visible)
    }

    /// Whether a completion may be taken by now.
    pub(super) fn has_visible(&self, now: u64) -> bool {
        self.next_visible().is_some_and(|visible| visible <= now)
    }
}
