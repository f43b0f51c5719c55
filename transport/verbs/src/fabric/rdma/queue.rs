//! One queue: a reliable queue pair and its completion queue.

use super::background::{Step, Transition};
use super::device::Device;
use super::{fault_of, fault_of_number};
use crate::fabric::{
    Completed, Completion, CompletionFault, FabricFault, Mtu, Operation, Port, QueueDepth, QueueEnd,
    ReceiveRequest, SendRequest,
};
use rdma_sys::{
    ibv_access_flags, ibv_ah_attr, ibv_cq, ibv_create_cq, ibv_create_qp, ibv_destroy_cq, ibv_destroy_qp,
    ibv_gid, ibv_global_route, ibv_modify_qp, ibv_poll_cq, ibv_post_recv, ibv_post_send, ibv_qp, ibv_qp_attr,
    ibv_qp_attr_mask, ibv_qp_init_attr, ibv_qp_state, ibv_qp_type, ibv_recv_wr, ibv_req_notify_cq,
    ibv_send_flags, ibv_send_wr, ibv_sge, ibv_wc, ibv_wc_opcode, ibv_wc_status, ibv_wr_opcode, rdma_t, wr_t,
};
use std::io;
use std::mem::MaybeUninit;
use std::ptr::{NonNull, null_mut};

/// How long a sender waits for an acknowledgement before it sends again: 4.096 µs × 2¹⁴ = 67 ms, above the
/// round trip of any rail that deserves the name.
const TIMEOUT: u8 = 14;
/// Times that it does so; some devices take 7 as for ever.
const RETRIES: u8 = 6;
/// Times that it waits for a receive of the peer. Never needed; 7 would hide that for ever.
const RECEIVER_NOT_READY_RETRIES: u8 = 6;
/// How long it waits then: number 12 is 640 µs.
const RECEIVER_NOT_READY_TIMER: u8 = 12;
/// Inline sizes asked for, the largest first that the device grants.
const INLINE_SIZES: [u32; 4] = [256, 128, 64, 0];
/// Hops of a packet.
const HOPS: u8 = 64;

/// A queue pair that is this process's, with its completion queue.
pub(super) struct Queue {
    pair: NonNull<ibv_qp>,
    completions: NonNull<ibv_cq>,
    number: u32,
    port: Port,
    pub(super) inline_bytes_max: usize,
    pub(super) transition: Option<Transition>,
    // Room for requests and completions, kept from call to call.
    sends: Vec<ibv_send_wr>,
    receives: Vec<ibv_recv_wr>,
    stretches: Vec<ibv_sge>,
    ended: Vec<MaybeUninit<ibv_wc>>,
}

impl Queue {
    pub(super) fn create(device: &Device, port: &Port, depth: QueueDepth) -> Result<Queue, FabricFault> {
        // One for each request that may be under way, so that it cannot overflow.
        let entries = (depth.sends + depth.receives) as libc::c_int;
        // SAFETY: context and channel are open as long as the device, which outlives its queues.
        let completions =
            unsafe { ibv_create_cq(device.context(), entries, null_mut(), device.channel(), 0) };
        let completions = NonNull::new(completions).ok_or_else(|| fault_of(&io::Error::last_os_error()))?;
        let Some((pair, inline)) = create_pair(device, completions, depth) else {
            let error = io::Error::last_os_error();
            // SAFETY: made above; no queue pair uses it.
            unsafe { ibv_destroy_cq(completions.as_ptr()) };
            return Err(fault_of(&error));
        };
        // SAFETY: the library has just made it; the field does not change.
        let number = unsafe { pair.as_ref() }.qp_num;
        let mut queue = Queue {
            pair,
            completions,
            number,
            port: *port,
            inline_bytes_max: inline as usize,
            transition: None,
            sends: Vec::with_capacity(depth.sends as usize),
            receives: Vec::with_capacity(depth.receives as usize),
            stretches: Vec::with_capacity(2 * depth.sends.max(depth.receives) as usize),
            ended: Vec::new(),
        };
        let mut attributes = blank();
        attributes.qp_state = ibv_qp_state::IBV_QPS_INIT;
        attributes.port_num = port.number;
        attributes.qp_access_flags = ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0;
        let mask = ibv_qp_attr_mask::IBV_QP_STATE.0
            | ibv_qp_attr_mask::IBV_QP_PKEY_INDEX.0
            | ibv_qp_attr_mask::IBV_QP_PORT.0
            | ibv_qp_attr_mask::IBV_QP_ACCESS_FLAGS.0;
        match queue.modify(Step { attributes, mask }) {
            0 => Ok(queue),
            refused => {
                queue.destroy();
                Err(fault_of_number(refused))
            }
        }
    }

    fn modify(&mut self, mut step: Step) -> libc::c_int {
        // SAFETY: the queue pair lives as long as `self`; the attributes are complete for the mask.
        unsafe { ibv_modify_qp(self.pair.as_ptr(), &raw mut step.attributes, step.mask as libc::c_int) }
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    pub(super) fn pair(&self) -> *mut ibv_qp {
        self.pair.as_ptr()
    }

    /// What takes this queue from made to connected.
    pub(super) fn steps(&self, packet_sequence: u32, peer: &QueueEnd, mtu: Mtu) -> Vec<Step> {
        let mut receive = blank();
        receive.qp_state = ibv_qp_state::IBV_QPS_RTR;
        receive.path_mtu = mtu.number().into();
        receive.dest_qp_num = peer.number;
        receive.rq_psn = peer.packet_sequence;
        receive.max_dest_rd_atomic = 1;
        receive.min_rnr_timer = RECEIVER_NOT_READY_TIMER;
        receive.ah_attr = ibv_ah_attr {
            grh: ibv_global_route {
                dgid: ibv_gid { raw: peer.gid },
                flow_label: 0,
                sgid_index: self.port.gid_index,
                hop_limit: HOPS,
                traffic_class: 0,
            },
            dlid: 0,
            sl: 0,
            src_path_bits: 0,
            static_rate: 0,
            is_global: 1,
            port_num: self.port.number,
        };
        let receive_mask = ibv_qp_attr_mask::IBV_QP_STATE.0
            | ibv_qp_attr_mask::IBV_QP_AV.0
            | ibv_qp_attr_mask::IBV_QP_PATH_MTU.0
            | ibv_qp_attr_mask::IBV_QP_DEST_QPN.0
            | ibv_qp_attr_mask::IBV_QP_RQ_PSN.0
            | ibv_qp_attr_mask::IBV_QP_MAX_DEST_RD_ATOMIC.0
            | ibv_qp_attr_mask::IBV_QP_MIN_RNR_TIMER.0;
        let mut send = blank();
        send.qp_state = ibv_qp_state::IBV_QPS_RTS;
        send.timeout = TIMEOUT;
        send.retry_cnt = RETRIES;
        send.rnr_retry = RECEIVER_NOT_READY_RETRIES;
        send.sq_psn = packet_sequence;
        send.max_rd_atomic = 1;
        let send_mask = ibv_qp_attr_mask::IBV_QP_STATE.0
            | ibv_qp_attr_mask::IBV_QP_TIMEOUT.0
            | ibv_qp_attr_mask::IBV_QP_RETRY_CNT.0
            | ibv_qp_attr_mask::IBV_QP_RNR_RETRY.0
            | ibv_qp_attr_mask::IBV_QP_SQ_PSN.0
            | ibv_qp_attr_mask::IBV_QP_MAX_QP_RD_ATOMIC.0;
        vec![Step { attributes: receive, mask: receive_mask }, Step { attributes: send, mask: send_mask }]
    }

    pub(super) fn post_receives(&mut self, requests: &[ReceiveRequest]) -> Result<(), FabricFault> {
        if requests.is_empty() {
            return Ok(());
        }
        self.receives.clear();
        self.stretches.clear();
        for request in requests {
            let part = request.part;
            self.stretches.push(ibv_sge { addr: part.address, length: part.length, lkey: part.key });
        }
        let stretches = self.stretches.as_mut_ptr();
        for (number, request) in requests.iter().enumerate() {
            let sg_list = stretches.wrapping_add(number);
            let request = ibv_recv_wr { wr_id: request.id, next: null_mut(), sg_list, num_sge: 1 };
            self.receives.push(request);
        }
        let first = self.receives.as_mut_ptr();
        for number in 1..self.receives.len() {
            self.receives[number - 1].next = first.wrapping_add(number);
        }
        let mut bad = null_mut();
        // SAFETY: the queue pair lives; the list is linked through `receives`, each entry with one stretch of
        // `stretches`, neither of which changes before the call returns. The memory that the stretches name
        // is registered and belongs to this connection until its queue is destroyed.
        match unsafe { ibv_post_recv(self.pair.as_ptr(), first, &raw mut bad) } {
            0 => Ok(()),
            refused => Err(fault_of_number(refused)),
        }
    }

    pub(super) fn post_sends(&mut self, requests: &[SendRequest]) -> Result<(), FabricFault> {
        self.sends.clear();
        self.stretches.clear();
        for request in requests {
            let parts = request.parts.iter().filter(|part| part.length > 0);
            let before = self.stretches.len();
            self.stretches.extend(parts.map(|part| ibv_sge {
                addr: part.address,
                length: part.length,
                lkey: part.key,
            }));
            let count = self.stretches.len() - before;
            self.sends.push(send_request(request, before, count));
        }
        let stretches = self.stretches.as_mut_ptr();
        let first = self.sends.as_mut_ptr();
        for number in 0..self.sends.len() {
            let place = self.sends[number].sg_list as usize;
            self.sends[number].sg_list = stretches.wrapping_add(place);
            if number > 0 {
                self.sends[number - 1].next = first.wrapping_add(number);
            }
        }
        let mut bad = null_mut();
        // SAFETY: the queue pair lives; the list is linked through `sends`, each entry with stretches of
        // `stretches`, neither of which changes before the call returns. What the stretches name is
        // registered and held by the lane until the request has come back or the queue is destroyed.
        match unsafe { ibv_post_send(self.pair.as_ptr(), first, &raw mut bad) } {
            0 => Ok(()),
            refused => Err(fault_of_number(refused)),
        }
    }

    pub(super) fn poll(&mut self, out: &mut [Completion]) -> usize {
        if self.ended.len() < out.len() {
            self.ended.resize_with(out.len(), MaybeUninit::zeroed);
        }
        let room = self.ended.as_mut_ptr().cast::<ibv_wc>();
        // SAFETY: the completion queue lives; there is room for as many entries as are asked for.
        let count = unsafe { ibv_poll_cq(self.completions.as_ptr(), out.len() as i32, room) };
        let count = usize::try_from(count).unwrap_or(0);
        for (out, ended) in out.iter_mut().zip(&self.ended[..count]) {
            // SAFETY: the library has filled in the first `count`.
            let ended = unsafe { ended.assume_init_ref() };
            *out = Completion { id: ended.wr_id, result: result_of(ended) };
        }
        count
    }

    pub(super) fn arm(&mut self) -> Result<(), FabricFault> {
        // SAFETY: the completion queue lives and has a channel.
        match unsafe { ibv_req_notify_cq(self.completions.as_ptr(), 0) } {
            0 => Ok(()),
            refused => Err(fault_of_number(refused)),
        }
    }

    pub(super) fn fail(&mut self) {
        let mut attributes = blank();
        attributes.qp_state = ibv_qp_state::IBV_QPS_ERR;
        // A device that is gone refuses; then nothing can arrive either.
        let _gone = self.modify(Step { attributes, mask: ibv_qp_attr_mask::IBV_QP_STATE.0 });
    }

    pub(super) fn destroy(mut self) {
        if let Some(transition) = self.transition.take() {
            transition.wait();
        }
        // SAFETY: nobody uses it any more: it is `self`'s, and the background thread was waited for.
        let pair = unsafe { ibv_destroy_qp(self.pair.as_ptr()) };
        // SAFETY: its only queue pair is destroyed, and each event that was taken is acknowledged.
        let completions = unsafe { ibv_destroy_cq(self.completions.as_ptr()) };
        if pair != 0 || completions != 0 {
            tracing::warn!(pair, completions, "RDMA queue could not be destroyed");
        }
    }
}

fn create_pair(
    device: &Device,
    completions: NonNull<ibv_cq>,
    depth: QueueDepth,
) -> Option<(NonNull<ibv_qp>, u32)> {
    for inline in INLINE_SIZES {
        let mut wanted = MaybeUninit::<ibv_qp_init_attr>::zeroed();
        // SAFETY: pointers and numbers: all zero is a value of it.
        let wanted = unsafe { wanted.assume_init_mut() };
        wanted.send_cq = completions.as_ptr();
        wanted.recv_cq = completions.as_ptr();
        wanted.cap.max_send_wr = depth.sends;
        wanted.cap.max_recv_wr = depth.receives;
        wanted.cap.max_send_sge = 2;
        wanted.cap.max_recv_sge = 1;
        wanted.cap.max_inline_data = inline;
        wanted.qp_type = ibv_qp_type::IBV_QPT_RC;
        // SAFETY: domain and completion queue live; the attributes are complete.
        let pair = unsafe { ibv_create_qp(device.domain(), wanted) };
        if let Some(pair) = NonNull::new(pair) {
            return Some((pair, wanted.cap.max_inline_data));
        }
    }
    None
}

/// Attributes of which nothing is set.
fn blank() -> ibv_qp_attr {
    // SAFETY: numbers, and unions of numbers: all zero is a value of it.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

/// A request whose stretches begin at number `place` of a list that may still move.
fn send_request(request: &SendRequest, place: usize, count: usize) -> ibv_send_wr {
    // SAFETY: pointers, numbers, and unions of those: all zero is a value of it.
    let mut wanted: ibv_send_wr = unsafe { MaybeUninit::zeroed().assume_init() };
    wanted.wr_id = request.id;
    wanted.sg_list = core::ptr::without_provenance_mut(place);
    wanted.num_sge = count as libc::c_int;
    let signalled = if request.signalled { ibv_send_flags::IBV_SEND_SIGNALED.0 } else { 0 };
    let inline = if request.inline { ibv_send_flags::IBV_SEND_INLINE.0 } else { 0 };
    wanted.send_flags = signalled | inline;
    match request.operation {
        Operation::Send => wanted.opcode = ibv_wr_opcode::IBV_WR_SEND,
        Operation::Write { address, key, immediate } => {
            wanted.opcode = ibv_wr_opcode::IBV_WR_RDMA_WRITE_WITH_IMM;
            wanted.imm_data_invalidated_rkey_union.imm_data = immediate.to_be();
            wanted.wr = wr_t { rdma: rdma_t { remote_addr: address, rkey: key } };
        }
    }
    wanted
}

fn result_of(ended: &ibv_wc) -> Result<Completed, CompletionFault> {
    match ended.status {
        ibv_wc_status::IBV_WC_SUCCESS => Ok(match ended.opcode {
            ibv_wc_opcode::IBV_WC_RECV => Completed::Received { bytes: ended.byte_len },
            ibv_wc_opcode::IBV_WC_RECV_RDMA_WITH_IMM => {
                // SAFETY: a completion of this kind has an immediate, and both fields of the union are
                // numbers of one size.
                let immediate = unsafe { ended.imm_data_invalidated_rkey_union.imm_data };
                Completed::Written { bytes: ended.byte_len, immediate: u32::from_be(immediate) }
            }
            _ => Completed::Sent,
        }),
        ibv_wc_status::IBV_WC_RETRY_EXC_ERR | ibv_wc_status::IBV_WC_RESP_TIMEOUT_ERR => {
            Err(CompletionFault::RetryExceeded)
        }
        ibv_wc_status::IBV_WC_RNR_RETRY_EXC_ERR => Err(CompletionFault::ReceiverNotReady),
        ibv_wc_status::IBV_WC_WR_FLUSH_ERR => Err(CompletionFault::Flushed),
        ibv_wc_status::IBV_WC_REM_ACCESS_ERR
        | ibv_wc_status::IBV_WC_REM_OP_ERR
        | ibv_wc_status::IBV_WC_REM_INV_REQ_ERR => Err(CompletionFault::RemoteAccess),
        ibv_wc_status::IBV_WC_LOC_PROT_ERR
        | ibv_wc_status::IBV_WC_LOC_ACCESS_ERR
        | ibv_wc_status::IBV_WC_LOC_LEN_ERR
        | ibv_wc_status::IBV_WC_LOC_QP_OP_ERR => Err(CompletionFault::LocalProtection),
        other => Err(CompletionFault::Other(other)),
    }
}
