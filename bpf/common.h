/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Maps, and what every program does. The files of this folder are compiled as one text: this one after layout.h, before the
 * programs. LEAF_LEVEL (how deep leaves lie in the cgroup tree) is defined by enforcerd.
 *
 * Only contexts and helpers of linux/bpf.h that Linux 5.15 has, and no structure of the kernel's own: any kernel's headers do.
 */

#include <uapi/linux/bpf.h>

#define BPF_LICENSE Dual MIT/GPL

#define PF_INET_ 2
#define PF_INET6_ 10
#define STREAM 1
#define DATAGRAM 2
#define TCP 6
#define UDP 17
#define MPTCP 262
#define DNS 53

/* Plain hashes: what is not there is denied, so nothing may ever be evicted. */
BPF_F_TABLE("hash", u64, struct leaf_rule, leaves, 4096, 0);
BPF_F_TABLE("hash", u64, struct origin, by_cookie, 131072, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash", struct tuple, u64, by_tuple, 131072, BPF_F_NO_PREALLOC);
/*
 * How many entries of by_cookie were made for a leaf, less those that programs removed; and how many enforcerd removed, which it
 * alone writes: it cannot add to a number that programs add to at the same time.
 */
BPF_F_TABLE("hash", u64, s64, taken, 4096, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash", u64, s64, pruned, 4096, BPF_F_NO_PREALLOC);
/*
 * Processes of leaves by id, and how many of them each leaf has. The third: the first thread ended, others may go on or execute
 * something in its place.
 */
BPF_F_TABLE("hash", u32, struct image, tasks, 131072, BPF_F_NO_PREALLOC);
BPF_F_TABLE("hash", u64, s64, followed, 4096, BPF_F_NO_PREALLOC);
BPF_F_TABLE("lru_hash", u32, struct image, retired, 1024, 0);
BPF_F_TABLE("array", u32, u64, losses, LOSSES, 0);
/* Two rings: a flood of refusals must not push out who connected. Pages of 4 KiB. */
BPF_RINGBUF_OUTPUT(refusals, 64);
BPF_RINGBUF_OUTPUT(events, 256);

static __always_inline void lose(u32 what)
{
	u64 *count = losses.lookup(&what);
	if (count)
		__sync_fetch_and_add(count, 1);
}

#define SECOND 1000000000ull
/*
 * Records of one leaf in a second, by kind: a workload that does the same in a loop must not fill a ring for the others. Each
 * ring has room for several leaves' records of a second, and is read all the time.
 */
#define REFUSAL_RECORDS 1000
#define FLOW_RECORDS 4000
#define PROCESS_RECORDS 4000

enum { PACE_REFUSALS, PACE_FLOWS, PACE_PROCESSES, PACES };

struct pace {
	u64 second;
	u64 count[PACES];
};

/* The oldest may go: nothing here means deny. */
BPF_F_TABLE("lru_hash", u64, struct pace, paces, 1024, 0);

/* Whether leaf may write one more record of this kind. Two at once may begin a second twice: a few more records. */
static __always_inline int in_pace(u64 leaf, u32 kind, u64 limit)
{
	u64 second = bpf_ktime_get_boot_ns() / SECOND;
	struct pace *pace = paces.lookup(&leaf), fresh = {.second = second};

	if (!pace || pace->second != second) {
		fresh.count[kind] = 1;
		paces.update(&leaf, &fresh);
		return 1;
	}
	__sync_fetch_and_add(&pace->count[kind], 1);
	return pace->count[kind] <= limit;
}

/* What is known of the calling process: its id, and what bpf_get_current_pid_tgid said. */
static __always_inline struct image *known(u32 pid, u64 task)
{
	struct image *image = tasks.lookup(&pid);

	return image || (u32)task == pid ? image : retired.lookup(&pid);
}

static __always_inline u64 current_leaf(void)
{
	return bpf_get_current_ancestor_cgroup_id(LEAF_LEVEL);
}

static __always_inline void head(struct heading *heading, u32 kind, u64 leaf, u64 netns, u64 cookie)
{
	u64 task = bpf_get_current_pid_tgid(), user = bpf_get_current_uid_gid();

	heading->kind = kind;
	heading->at_ns = bpf_ktime_get_boot_ns();
	heading->leaf = leaf;
	heading->netns = netns;
	heading->cookie = cookie;
	heading->tgid = task >> 32;
	heading->tid = task;
	heading->uid = user;
	heading->gid = user >> 32;
	bpf_get_current_comm(heading->comm, sizeof(heading->comm));
}
