// Segments of sequences, each of which a block walks by itself. Those of a batch are as many as the variant says, and as long, but
// for the last ones where these take turns on multiprocessors that the others leave. How long packed
// sequences are only the device knows: they are cut where one of them is long beside what each block that there is room for
// has to do on average, and templates/schedule.cuh finds out which.
#include <fmt/format.h>

#include <algorithm>

#include "args.h"
#include "chunk_shape.h"
#include "family_space.h"
#include "render_common.h"

namespace gla {
namespace {

constexpr std::int64_t kLeastChunks = 8;  // of a segment of packed sequences

/// Chunks of a segment of a batch's sequences, so many of which walk together. Blocks start in the order of segments, the last ones
/// of all sequences behind all others: where those fill the room but for a part of it, the last ones are so short that they come
/// one after the other in this part while the others walk. 24 sequences have six segments each on 132 multiprocessors: five for
/// 120 of them, and a shorter one of which two take turns on each of 12.
std::int64_t segment_chunks(std::int64_t chunks, std::int64_t segments, std::int64_t sequences,
                            std::int64_t room) {
  const std::int64_t even = divided_up(chunks, segments), whole = (segments - 1) * sequences;
  if (room == 0 || whole % room == 0) return even;
  const std::int64_t turns = divided_up(sequences, room - whole % room);
  const std::int64_t uneven = divided_up(chunks * turns, (segments - 1) * turns + 1);
  const std::int64_t until_end = divided_up(whole, room) * uneven,
                     until_even_end = divided_up(whole + sequences, room) * even;
  return until_end < until_even_end ? uneven : even;
}

}  // namespace

Segments cut_into_segments(const Problem& problem, const Variant& variant, const Workload& workload,
                           std::int64_t chunk, std::int64_t sequence_blocks, std::int64_t room) {
  const auto whole_chunks = [chunk](std::int64_t tokens) { return divided_up(tokens, chunk) * chunk; };
  const std::int64_t parts = variant[Parameter::segments],
                     tokens = std::max<std::int64_t>(workload.tokens, 1);
  Segments cut;
  if (!workload.packed) {
    cut.tokens =
        chunk * segment_chunks(divided_up(tokens, chunk), parts, workload.sequences * sequence_blocks, room);
    cut.segments = divided_up(tokens, cut.tokens);
    cut.slots = cut.states = cut.walks = workload.sequences * cut.segments;
    cut.scans = workload.sequences;
    return cut;
  }
  if (room == 0) {
    cut.tokens = whole_chunks(divided_up(tokens, parts * workload.sequences));
  } else {
    cut.share = divided_up(tokens * sequence_blocks, room);
    cut.tokens = whole_chunks(
        std::max({divided_up(cut.share, parts), least_tokens_for_states(problem), kLeastChunks * chunk}));
  }
  cut.segments = tokens > 2 * cut.tokens ? tokens / cut.tokens : 0;
  cut.states = cut.segments;
  cut.scans = cut.segments / 2;
  cut.slots = cut.states + cut.scans;
  cut.walks = workload.sequences + cut.segments;
  cut.scheduled = cut.segments > 0 || workload.sequences * sequence_blocks > room;
  return cut;
}

std::int64_t room_for(const EntryShape& shape, int multiprocessors) {
  return std::int64_t{multiprocessors} * resident_blocks(shape);
}

void add_schedule_entry(Source& source) {
  add_entry(source, {.name = "chunk_schedule",
                     .threads = kScheduleThreads,
                     .call = fmt::format("make_schedule<{}>(args)", kScheduleThreads)});
}

void add_schedule(LaunchPlan& plan, const Segments& cut, int entry) {
  if (!cut.scheduled) return;
  const EntryShape shape = schedule_shape();
  plan.launches.add({.entry = entry, .threads = shape.threads, .shared_bytes = shape.shared_bytes});
  plan.schedule = {cut.walks, cut.segments, cut.share, plan.workspace_bytes};
  plan.workspace_bytes +=
      round_up_256(static_cast<std::size_t>(cut.walks + cut.states + cut.scans) * sizeof(Piece));
}

}  // namespace gla
