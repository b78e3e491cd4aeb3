/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * The second, independent "no" for what a governed process does with sockets, and who connected. Attached once, to the slice.
 *
 * A hook runs for sockets whose *creator* was in the slice; the leaf is the one of the *calling* process. So a socket that
 * was handed out of the slice is refused to whoever has it (no such leaf), and one that was handed in never comes here: that
 * is the auditor's.
 */

static __always_inline void put_refusal(struct refusal *refusal)
{
	if (!in_pace(refusal->heading.leaf, PACE_REFUSALS, REFUSAL_RECORDS) || refusals.ringbuf_output(refusal, sizeof(*refusal), 0) < 0)
		lose(LOST_REFUSALS);
}

/* Why leaf may not use sockets of netns, 0 if it may. *flags: the leaf's, 0 if unknown. */
static __always_inline u32 judge(u64 leaf, u64 netns, u32 *flags)
{
	struct leaf_rule *rule = leaves.lookup(&leaf);

	if (!rule)
		return REASON_UNREGISTERED;
	*flags = rule->flags;
	if (!(rule->flags & FLAG_PROVING) && rule->netns != netns)
		return REASON_NETNS;
	return 0;
}

/* Write a refusal of what the calling process does; the caller has filled in what it concerns. */
static __always_inline int refuse(struct refusal *refusal, u32 reason, u64 leaf, u64 netns, u64 cookie)
{
	head(&refusal->heading, RECORD_REFUSAL, leaf, netns, cookie);
	refusal->heading.reason = reason;
	put_refusal(refusal);
	return 0;
}

/* Whether there is room for one more of the leaf's. Two at once may both be refused the last place, never both be given it. */
static __always_inline int take_place(u64 leaf)
{
	s64 *count = taken.lookup(&leaf), *back = pruned.lookup(&leaf);

	if (!count || !back)
		return 0;
	__sync_fetch_and_add(count, 1);
	if (*count - *back <= LEAF_CONNECTIONS)
		return 1;
	__sync_fetch_and_add(count, -1);
	return 0;
}

static __always_inline void give_place(u64 leaf)
{
	s64 *count = taken.lookup(&leaf);

	if (count)
		__sync_fetch_and_add(count, -1);
}

/* Whoever removed the entry, and no other, gives its place back. */
static __always_inline void forget(u64 cookie, struct origin *origin)
{
	u64 leaf = origin->leaf;

	if (origin->tuple.family)
		by_tuple.delete(&origin->tuple);
	if (by_cookie.delete(&cookie) == 0)
		give_place(leaf);
}

/* Remember who connects. Without room the connection is refused: one that nobody can account for is none. */
static __always_inline u32 remember(u64 leaf, u64 netns, u64 cookie)
{
	struct origin origin = {}, *earlier = by_cookie.lookup(&cookie);
	u64 task = bpf_get_current_pid_tgid(), user = bpf_get_current_uid_gid();
	struct image *image = known(task >> 32, task);

	if (earlier)
		forget(cookie, earlier);
	if (!take_place(leaf))
		return REASON_QUOTA;
	origin.leaf = leaf;
	origin.netns = netns;
	origin.at_ns = bpf_ktime_get_boot_ns();
	origin.tgid = task >> 32;
	origin.tid = task;
	origin.uid = user;
	origin.gid = user >> 32;
	bpf_get_current_comm(origin.comm, sizeof(origin.comm));
	if (image) {
		origin.start_ns = image->start_ns;
		origin.image = image->count;
	}
	if (by_cookie.insert(&cookie, &origin) == 0)
		return 0;
	give_place(leaf);
	return REASON_MAP_FULL;
}

static __always_inline u32 judge_connect(struct bpf_sock_addr *ctx, u64 leaf, u64 netns, u64 cookie)
{
	u32 flags = 0, reason = judge(leaf, netns, &flags);

	if (reason || flags & FLAG_PROVING)
		return reason;
	/* Connecting a UDP socket sends nothing, and name lookup does it to learn its own address. */
	return ctx->type == STREAM ? remember(leaf, netns, cookie) : 0;
}

int connect4(struct bpf_sock_addr *ctx)
{
	u64 leaf = current_leaf(), netns = bpf_get_netns_cookie(ctx), cookie = bpf_get_socket_cookie(ctx);
	u32 reason = judge_connect(ctx, leaf, netns, cookie);
	struct refusal refusal = {};

	if (!reason)
		return 1;
	refusal.family = PF_INET_;
	refusal.type = ctx->type;
	refusal.protocol = ctx->protocol;
	refusal.port = bpf_ntohs(ctx->user_port);
	refusal.addr[0] = ctx->user_ip4;
	return refuse(&refusal, reason, leaf, netns, cookie);
}

int connect6(struct bpf_sock_addr *ctx)
{
	u64 leaf = current_leaf(), netns = bpf_get_netns_cookie(ctx), cookie = bpf_get_socket_cookie(ctx);
	u32 reason = judge_connect(ctx, leaf, netns, cookie);
	struct refusal refusal = {};

	if (!reason)
		return 1;
	refusal.family = PF_INET6_;
	refusal.type = ctx->type;
	refusal.protocol = ctx->protocol;
	refusal.port = bpf_ntohs(ctx->user_port);
	refusal.addr[0] = ctx->user_ip6[0];
	refusal.addr[1] = ctx->user_ip6[1];
	refusal.addr[2] = ctx->user_ip6[2];
	refusal.addr[3] = ctx->user_ip6[3];
	return refuse(&refusal, reason, leaf, netns, cookie);
}

/* Datagrams with an address; those of a connected socket do not come here (nft and the skb programs have them). */
static __always_inline u32 judge_datagram(u64 leaf, u64 netns, u16 port, int own)
{
	u32 flags = 0, reason = judge(leaf, netns, &flags);

	if (reason || !(flags & FLAG_SHARED) || flags & FLAG_PROVING)
		return reason;
	return port == DNS || own ? 0 : REASON_UDP;
}

int sendmsg4(struct bpf_sock_addr *ctx)
{
	u64 leaf = current_leaf(), netns = bpf_get_netns_cookie(ctx), cookie = bpf_get_socket_cookie(ctx);
	u32 address = ctx->user_ip4, port = bpf_ntohs(ctx->user_port);
	u32 reason = judge_datagram(leaf, netns, port, (bpf_ntohl(address) >> 24) == 127);
	struct refusal refusal = {};

	if (!reason)
		return 1;
	refusal.family = PF_INET_;
	refusal.type = ctx->type;
	refusal.protocol = ctx->protocol;
	refusal.port = port;
	refusal.addr[0] = address;
	return refuse(&refusal, reason, leaf, netns, cookie);
}

int sendmsg6(struct bpf_sock_addr *ctx)
{
	u64 leaf = current_leaf(), netns = bpf_get_netns_cookie(ctx), cookie = bpf_get_socket_cookie(ctx);
	u32 port = bpf_ntohs(ctx->user_port), reason;
	struct refusal refusal = {};

	refusal.addr[0] = ctx->user_ip6[0];
	refusal.addr[1] = ctx->user_ip6[1];
	refusal.addr[2] = ctx->user_ip6[2];
	refusal.addr[3] = ctx->user_ip6[3];
	/* ::1. A v4-mapped destination is handed on to sendmsg4. */
	reason = judge_datagram(leaf, netns, port, !refusal.addr[0] && !refusal.addr[1] && !refusal.addr[2] &&
							   bpf_ntohl(refusal.addr[3]) == 1);
	if (!reason)
		return 1;
	refusal.family = PF_INET6_;
	refusal.type = ctx->type;
	refusal.protocol = ctx->protocol;
	refusal.port = port;
	return refuse(&refusal, reason, leaf, netns, cookie);
}

/* connect(2) and sendto(2) on unix sockets (Linux 6.7). No field of the address may be read: all or nothing. */
static __always_inline int judge_unix(struct bpf_sock_addr *ctx)
{
	u64 leaf = current_leaf(), netns = bpf_get_netns_cookie(ctx), cookie = bpf_get_socket_cookie(ctx);
	struct refusal refusal = {};
	struct leaf_rule *rule = leaves.lookup(&leaf);

	if (rule && !(rule->flags & FLAG_NO_UNIX))
		return 1;
	refusal.family = 1;
	refusal.type = ctx->type;
	return refuse(&refusal, rule ? REASON_UNIX : REASON_UNREGISTERED, leaf, netns, cookie);
}

int connect_unix(struct bpf_sock_addr *ctx)
{
	return judge_unix(ctx);
}

int sendmsg_unix(struct bpf_sock_addr *ctx)
{
	return judge_unix(ctx);
}

int sock_create(struct bpf_sock *ctx)
{
	u64 leaf = current_leaf(), netns = bpf_get_netns_cookie(ctx), cookie = bpf_get_socket_cookie(ctx);
	u32 type = ctx->type, protocol = ctx->protocol, flags = 0, reason = judge(leaf, netns, &flags);
	int tcp = type == STREAM && (protocol == TCP || protocol == MPTCP), udp = type == DATAGRAM && protocol == UDP;
	struct refusal refusal = {};

	if (!reason && flags & FLAG_PROVING)
		return 1;
	if (!reason && !tcp && !udp)
		reason = REASON_TYPE;
	if (!reason)
		return 1;
	refusal.family = ctx->family;
	refusal.type = type;
	refusal.protocol = protocol;
	return refuse(&refusal, reason, leaf, netns, cookie);
}

/* What became of a dial. Told once, when it is known, with the process as it was at the dial. */
static __always_inline void tell(u64 cookie, struct origin *origin, u32 established)
{
	struct flow flow = {};

	origin->pending = 0;
	flow.heading.kind = RECORD_FLOW;
	flow.heading.at_ns = origin->at_ns;
	flow.heading.leaf = origin->leaf;
	flow.heading.netns = origin->netns;
	flow.heading.cookie = cookie;
	flow.heading.tgid = origin->tgid;
	flow.heading.tid = origin->tid;
	flow.heading.uid = origin->uid;
	flow.heading.gid = origin->gid;
	__builtin_memcpy(flow.heading.comm, origin->comm, sizeof(flow.heading.comm));
	flow.tuple = origin->tuple;
	flow.start_ns = origin->start_ns;
	flow.image = origin->image;
	flow.established = established;
	if (!in_pace(origin->leaf, PACE_FLOWS, FLOW_RECORDS) || events.ringbuf_output(&flow, sizeof(flow), 0) < 0)
		lose(LOST_EVENTS);
}

/*
 * At a connection's beginning (the local port is chosen, nothing is sent yet) and its end, which may come long after the
 * descriptor was closed. Older kernels cannot be asked for the process here, so it is found by cookie.
 */
int tcp_connect(struct bpf_sock_ops *ctx)
{
	struct tuple tuple = {};
	struct origin *origin;
	u64 cookie;

	if (ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB && ctx->op != BPF_SOCK_OPS_STATE_CB)
		return 1;
	cookie = bpf_get_socket_cookie(ctx);
	origin = by_cookie.lookup(&cookie);
	if (!origin)
		return 1;
	if (ctx->op == BPF_SOCK_OPS_STATE_CB) {
		if (ctx->args[0] == BPF_TCP_SYN_SENT && origin->pending)
			tell(cookie, origin, ctx->args[1] != BPF_TCP_CLOSE);
		if (ctx->args[1] == BPF_TCP_CLOSE)
			forget(cookie, origin);
		return 1;
	}
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
	tuple.netns = bpf_get_netns_cookie(ctx);
	tuple.sport = ctx->local_port;
	tuple.dport = bpf_ntohl(ctx->remote_port);
	tuple.family = ctx->family;
	if (ctx->family == PF_INET6_) {
		tuple.saddr[0] = ctx->local_ip6[0];
		tuple.saddr[1] = ctx->local_ip6[1];
		tuple.saddr[2] = ctx->local_ip6[2];
		tuple.saddr[3] = ctx->local_ip6[3];
		tuple.daddr[0] = ctx->remote_ip6[0];
		tuple.daddr[1] = ctx->remote_ip6[1];
		tuple.daddr[2] = ctx->remote_ip6[2];
		tuple.daddr[3] = ctx->remote_ip6[3];
	}
	/* ::ffff:a.b.c.d is IPv4 on the wire and to the proxy. */
	if (ctx->family == PF_INET_ || (!tuple.daddr[0] && !tuple.daddr[1] && bpf_ntohl(tuple.daddr[2]) == 0xffff)) {
		tuple.family = PF_INET_;
		__builtin_memset(tuple.saddr, 0, sizeof(tuple.saddr));
		__builtin_memset(tuple.daddr, 0, sizeof(tuple.daddr));
		tuple.saddr[0] = ctx->local_ip4;
		tuple.daddr[0] = ctx->remote_ip4;
	}
	if (origin->tuple.family)
		by_tuple.delete(&origin->tuple);
	origin->tuple = tuple;
	origin->pending = 1;
	if (by_tuple.update(&tuple, &cookie) < 0)
		lose(LOST_TUPLES);
	return 1;
}

/* A socket that was to connect and never came to it. */
int sock_release(struct bpf_sock *ctx)
{
	u64 cookie = bpf_get_socket_cookie(ctx);
	struct origin *origin = by_cookie.lookup(&cookie);

	if (origin && !origin->tuple.family)
		forget(cookie, origin);
	return 1;
}
