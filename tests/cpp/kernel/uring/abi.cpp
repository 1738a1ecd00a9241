#include <zloop/kernel/uring/abi.hpp>

#include "catch.hpp"

#if ZLOOP_HAS_URING && __has_include(<linux/io_uring.h>)

#include <linux/io_uring.h>

// Names that only newer headers have.
#if defined(IORING_SETUP_DEFER_TASKRUN)

namespace ours = zloop::detail::uring;

// What the kernel calls them, for a machine whose header is as new as what we use.

#define SAME_PLACE(type, member, kernel_type, kernel_member)                             \
    static_assert(offsetof(ours::type, member) == offsetof(kernel_type, kernel_member)); \
    static_assert(sizeof(ours::type::member) == sizeof(kernel_type::kernel_member))

static_assert(sizeof(ours::submission) == sizeof(io_uring_sqe));
SAME_PLACE(submission, opcode, io_uring_sqe, opcode);
SAME_PLACE(submission, flags, io_uring_sqe, flags);
SAME_PLACE(submission, modifiers, io_uring_sqe, ioprio);
SAME_PLACE(submission, fd, io_uring_sqe, fd);
SAME_PLACE(submission, offset, io_uring_sqe, off);
SAME_PLACE(submission, address, io_uring_sqe, addr);
SAME_PLACE(submission, length, io_uring_sqe, len);
SAME_PLACE(submission, operation_flags, io_uring_sqe, msg_flags);
SAME_PLACE(submission, user_data, io_uring_sqe, user_data);
SAME_PLACE(submission, buffer_group, io_uring_sqe, buf_group);

static_assert(sizeof(ours::completion) == sizeof(io_uring_cqe));
SAME_PLACE(completion, user_data, io_uring_cqe, user_data);
SAME_PLACE(completion, result, io_uring_cqe, res);
SAME_PLACE(completion, flags, io_uring_cqe, flags);

static_assert(sizeof(ours::parameters) == sizeof(io_uring_params));
SAME_PLACE(parameters, submissions, io_uring_params, sq_entries);
SAME_PLACE(parameters, completions, io_uring_params, cq_entries);
SAME_PLACE(parameters, flags, io_uring_params, flags);
SAME_PLACE(parameters, features, io_uring_params, features);
SAME_PLACE(parameters, submission_queue, io_uring_params, sq_off);
SAME_PLACE(parameters, completion_queue, io_uring_params, cq_off);
SAME_PLACE(submission_offsets, head, io_sqring_offsets, head);
SAME_PLACE(submission_offsets, tail, io_sqring_offsets, tail);
SAME_PLACE(submission_offsets, mask, io_sqring_offsets, ring_mask);
SAME_PLACE(submission_offsets, flags, io_sqring_offsets, flags);
SAME_PLACE(submission_offsets, array, io_sqring_offsets, array);
SAME_PLACE(completion_offsets, head, io_cqring_offsets, head);
SAME_PLACE(completion_offsets, tail, io_cqring_offsets, tail);
SAME_PLACE(completion_offsets, mask, io_cqring_offsets, ring_mask);
SAME_PLACE(completion_offsets, completions, io_cqring_offsets, cqes);

static_assert(sizeof(ours::wait_argument) == sizeof(io_uring_getevents_arg));
SAME_PLACE(wait_argument, signal_mask, io_uring_getevents_arg, sigmask);
SAME_PLACE(wait_argument, signal_mask_size, io_uring_getevents_arg, sigmask_sz);
SAME_PLACE(wait_argument, limit, io_uring_getevents_arg, ts);
static_assert(sizeof(ours::kernel_time) == sizeof(__kernel_timespec));

static_assert(sizeof(ours::buffer_registration) == sizeof(io_uring_buf_reg));
SAME_PLACE(buffer_registration, address, io_uring_buf_reg, ring_addr);
SAME_PLACE(buffer_registration, entries, io_uring_buf_reg, ring_entries);
SAME_PLACE(buffer_registration, group, io_uring_buf_reg, bgid);
static_assert(sizeof(ours::provided_buffer) == sizeof(io_uring_buf));
SAME_PLACE(provided_buffer, address, io_uring_buf, addr);
SAME_PLACE(provided_buffer, length, io_uring_buf, len);
SAME_PLACE(provided_buffer, number, io_uring_buf, bid);
SAME_PLACE(provided_buffer, tail, io_uring_buf_ring, tail);

static_assert(ours::op_poll_add == IORING_OP_POLL_ADD);
static_assert(ours::op_sendmsg == IORING_OP_SENDMSG);
static_assert(ours::op_accept == IORING_OP_ACCEPT);
static_assert(ours::op_async_cancel == IORING_OP_ASYNC_CANCEL);
static_assert(ours::op_connect == IORING_OP_CONNECT);
static_assert(ours::op_send == IORING_OP_SEND);
static_assert(ours::op_recv == IORING_OP_RECV);
static_assert(ours::select_buffer == IOSQE_BUFFER_SELECT);
static_assert(ours::silent_success == IOSQE_CQE_SKIP_SUCCESS);
static_assert(ours::poll_first == IORING_RECVSEND_POLL_FIRST);
static_assert(ours::receive_multishot == IORING_RECV_MULTISHOT);
static_assert(ours::accept_multishot == IORING_ACCEPT_MULTISHOT);
static_assert(ours::poll_multishot == IORING_POLL_ADD_MULTI);
static_assert(ours::has_buffer == IORING_CQE_F_BUFFER);
static_assert(ours::has_more == IORING_CQE_F_MORE);
static_assert(ours::has_unread == IORING_CQE_F_SOCK_NONEMPTY);
static_assert(ours::buffer_shift == IORING_CQE_BUFFER_SHIFT);
static_assert(ours::set_completions == IORING_SETUP_CQSIZE);
static_assert(ours::clamp == IORING_SETUP_CLAMP);
static_assert(ours::begin_disabled == IORING_SETUP_R_DISABLED);
static_assert(ours::submit_all == IORING_SETUP_SUBMIT_ALL);
static_assert(ours::cooperative_work == IORING_SETUP_COOP_TASKRUN);
static_assert(ours::flag_work == IORING_SETUP_TASKRUN_FLAG);
static_assert(ours::single_issuer == IORING_SETUP_SINGLE_ISSUER);
static_assert(ours::deferred_work == IORING_SETUP_DEFER_TASKRUN);
static_assert(ours::completions_overflown == IORING_SQ_CQ_OVERFLOW);
static_assert(ours::work_to_run == IORING_SQ_TASKRUN);
static_assert(ours::queues_at == IORING_OFF_SQ_RING);
static_assert(ours::submissions_at == IORING_OFF_SQES);
static_assert(ours::enter_get_events == IORING_ENTER_GETEVENTS);
static_assert(ours::enter_extended == IORING_ENTER_EXT_ARG);
static_assert(ours::register_event == IORING_REGISTER_EVENTFD);
static_assert(ours::enable_rings == IORING_REGISTER_ENABLE_RINGS);
static_assert(ours::register_buffer_ring == IORING_REGISTER_PBUF_RING);

TEST_CASE("our words for io_uring are the kernel's", "[uring]") {
#if defined(SYS_io_uring_setup)
    CHECK(ours::setup_call == SYS_io_uring_setup);
    CHECK(ours::enter_call == SYS_io_uring_enter);
    CHECK(ours::register_call == SYS_io_uring_register);
#endif
    SUCCEED("it has compiled");
}

#endif
#endif
