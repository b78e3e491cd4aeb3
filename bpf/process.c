/* SPDX-License-Identifier: MIT OR GPL-2.0-only
 *
 * Which program started which, in every leaf. A process is named by its id and when it was forked, which never comes twice; an
 * image (what it executes) by a count, 0 being the copy that fork made. Both are kept here, in the kernel, so that a record
 * that is lost leaves a number nobody knows, never a wrong answer.
 *
 * The structures of the tracepoints' formats (events/<category>/<name>/format) that do not change: task_newtask rather than
 * sched_process_fork, because only it tells threads from processes.
 */

struct newtask_format {
	u64 common;
	s32 pid;
	char comm[16];
	u32 gap;
	u64 clone_flags;
};

struct exec_format {
	u64 common;
	u32 filename; /* offset in the low half */
	s32 pid;
	s32 old_pid; /* of the thread that called; the process's after it */
};

struct execve_format {
	u64 common;
	s64 number;
	const char *filename;
	const char *const *argv;
};

struct execveat_format {
	u64 common;
	s64 number;
	s64 folder;
	const char *filename;
	const char *const *argv;
};

#define CLONE_THREAD 0x10000

/* The oldest may go: nothing below means deny. */
/* What a thread asked execve(2) for, until it is done. */
BPF_F_TABLE("lru_hash", u32, struct words, asked, 1024, 0);
BPF_F_TABLE("percpu_array", u32, struct words, scratch, 1, 0);

/* Whether a record about a process of leaf may be written. */
static __always_inline int paced(u64 leaf)
{
	if (in_pace(leaf, PACE_PROCESSES, PROCESS_RECORDS))
		return 1;
	lose(LOST_PROCESSES);
	return 0;
}

static __always_inline int governed(u64 leaf)
{
	struct leaf_rule *rule = leaves.lookup(&leaf);

	return rule && !(rule->flags & FLAG_PROVING);
}

/* Follow process pid, if its leaf has room for one more; return whether it is. As take_place of network.c: never one too many. */
static __always_inline int follow(u32 pid, struct image *image)
{
	u64 leaf = image->leaf;
	s64 *count = followed.lookup(&leaf);

	if (!count)
		return 0;
	__sync_fetch_and_add(count, 1);
	if (*count <= LEAF_PROCESSES && tasks.insert(&pid, image) == 0)
		return 1;
	__sync_fetch_and_add(count, -1);
	return 0;
}

/* Whoever removed the entry, and no other, gives its room back, to the leaf that it was of. */
static __always_inline void unfollow(u32 pid, u64 leaf)
{
	s64 *count = followed.lookup(&leaf);

	if (tasks.delete(&pid) == 0 && count)
		__sync_fetch_and_add(count, -1);
}

/* Runs in the process that forks, before its child does anything. */
int process_fork(struct newtask_format *ctx)
{
	u64 leaf = current_leaf(), task = bpf_get_current_pid_tgid();
	u32 parent = task >> 32, child = ctx->pid;
	struct image fresh = {}, *entry;
	struct fork fork = {};

	if (!governed(leaf))
		return 0;
	if (ctx->clone_flags & CLONE_THREAD) {
		entry = tasks.lookup(&parent);
		if (entry)
			entry->threaded = 1;
		return 0;
	}
	head(&fork.heading, RECORD_FORK, leaf, 0, 0);
	fresh.start_ns = fork.heading.at_ns;
	fresh.leaf = leaf;
	entry = tasks.lookup(&child);
	if (entry) /* of an earlier process, whose end nobody saw */
		unfollow(child, entry->leaf);
	if (!follow(child, &fresh)) {
		lose(LOST_PROCESSES);
		return 0;
	}
	entry = known(parent, task);
	if (entry) {
		fork.parent_start_ns = entry->start_ns;
		fork.parent_image = entry->count;
	}
	fork.child = child;
	if (paced(leaf) && events.ringbuf_output(&fork, sizeof(fork), 0) < 0)
		lose(LOST_EVENTS);
	return 0;
}

/* What is asked for may be changed by another thread before the kernel copies it: evidence, not proof. */
static __always_inline int ask(const char *const *argv)
{
	u32 zero = 0, tid = bpf_get_current_pid_tgid();
	struct words *words = scratch.lookup(&zero);
	const char *word = 0;
	int place;

	if (!governed(current_leaf()) || !words)
		return 0;
	words->count = 0;
	words->unread = 0;
	words->more = 0;
#pragma unroll
	for (place = 0; place < WORDS; place++) {
		word = 0;
		if (bpf_probe_read_user(&word, sizeof(word), &argv[place]) < 0 || !word)
			goto done;
		words->word[place][0] = 0;
		/* Not in memory yet, which a tracepoint cannot wait for. */
		if (bpf_probe_read_user_str(words->word[place], WORD, word) < 0)
			words->unread |= 1 << place;
		words->count = place + 1;
	}
	if (bpf_probe_read_user(&word, sizeof(word), &argv[WORDS]) == 0 && word)
		words->more = 1;
done:
	asked.update(&tid, words);
	return 0;
}

int ask_execve(struct execve_format *ctx)
{
	return ask(ctx->argv);
}

int ask_execveat(struct execveat_format *ctx)
{
	return ask(ctx->argv);
}

/* The new program is in place and has not run yet. */
int process_exec(struct exec_format *ctx)
{
	u32 pid = ctx->pid, caller = ctx->old_pid;
	struct image *entry = tasks.lookup(&pid), copy;
	u64 leaf = current_leaf();
	struct words *words;
	struct exec *exec;

	if (!entry && caller != pid) {
		/* Another thread than the first called; the first has ended on its behalf. */
		entry = retired.lookup(&pid);
		if (!entry)
			return 0;
		copy = *entry;
		retired.delete(&pid);
		if (!follow(pid, &copy))
			lose(LOST_PROCESSES);
		entry = tasks.lookup(&pid);
	}
	if (!entry)
		return 0;
	entry->count += 1;
	entry->threaded = 0;
	if (!governed(leaf) || !paced(leaf))
		return 0;
	exec = events.ringbuf_reserve(sizeof(struct exec));
	if (!exec) {
		lose(LOST_EVENTS);
		return 0;
	}
	head(&exec->heading, RECORD_EXEC, leaf, 0, 0);
	exec->heading.reason = 0;
	exec->start_ns = entry->start_ns;
	exec->image = entry->count;
	exec->gap = 0;
	exec->filename[0] = 0;
	bpf_probe_read_kernel_str(exec->filename, sizeof(exec->filename), (char *)ctx + (ctx->filename & 0xffff));
	words = asked.lookup(&caller);
	if (words)
		bpf_probe_read_kernel(&exec->words, sizeof(exec->words), words);
	else
		exec->words.count = 0, exec->words.unread = 0, exec->words.more = 1, exec->words.gap = 0;
	asked.delete(&caller);
	events.ringbuf_submit(exec, 0);
	return 0;
}

/* Everywhere, because what is known of a process must end with it. */
int process_exit(void *ctx)
{
	u64 task = bpf_get_current_pid_tgid(), leaf;
	u32 pid = task >> 32, tid = task;
	struct image *entry, copy;
	struct end end = {};

	asked.delete(&tid);
	if (pid != tid)
		return 0;
	entry = tasks.lookup(&pid);
	if (!entry)
		return 0;
	copy = *entry;
	if (copy.threaded)
		retired.update(&pid, &copy);
	unfollow(pid, copy.leaf);
	leaf = current_leaf();
	if (!governed(leaf))
		return 0;
	head(&end.heading, RECORD_EXIT, leaf, 0, 0);
	end.start_ns = copy.start_ns;
	if (paced(leaf) && events.ringbuf_output(&end, sizeof(end), 0) < 0)
		lose(LOST_EVENTS);
	return 0;
}
