// What becomes of packed sequences: whatever their lengths, the schedule has every token once, the longest walks first, and cuts
// what would keep all others waiting. On the emulator, with the sizes that plans say.
#define GLA_EMULATOR
#include "schedule.cuh"

#include <algorithm>
#include <cstdint>
#include <map>
#include <numeric>
#include <random>
#include <vector>

#include "catch.h"
#include "gla/generator/render.h"
#include "machine.h"
#include "test_seed.h"

using namespace gla;
using emulator::Options;
using emulator::Order;

namespace {

constexpr int kHeads = 4, kThreads = 64;
const Problem kProblem = [] {
  Problem problem;
  problem.head_dim_k = problem.head_dim_v = 64;
  return problem;
}();
constexpr std::string_view kVariant =
    "segmented segments=2 chunk=32 tile_v=64 warps_v=4 warps_k=1 group_tile=1 stages=2 score_parts=2 "
    "state_parts=1 async_copy=1 producers=0 cluster=1 min_blocks=1";

struct Lists {
  LaunchPlan plan;
  std::vector<Piece> walks, states, cut;
};

/// Of sequences of these lengths on so many multiprocessors.
Lists scheduled(const std::vector<std::int64_t>& lengths, int multiprocessors, const Options& options = {}) {
  std::vector<std::int64_t> cu_seqlens(lengths.size() + 1);
  std::partial_sum(lengths.begin(), lengths.end(), cu_seqlens.begin() + 1);
  Lists lists;
  const auto sequences = static_cast<std::int64_t>(lengths.size());
  lists.plan = plan(kProblem, *parse_variant(kVariant), {sequences, kHeads, cu_seqlens.back(), true},
                    {.multiprocessors = multiprocessors});
  const SchedulePlan& schedule = lists.plan.schedule;
  if (schedule.walks == 0) return lists;
  REQUIRE(schedule.walks == sequences + schedule.segments);
  const Piece poison{-2, -2, -2, -2};
  lists.walks.assign(static_cast<std::size_t>(schedule.walks), poison);
  lists.states.assign(static_cast<std::size_t>(schedule.segments), poison);
  lists.cut.assign(static_cast<std::size_t>(schedule.segments / 2), poison);
  KernelArgs args;
  args.cu_seqlens = cu_seqlens.data();
  args.cu_seqlens_is_int64 = 1;
  args.sequences = sequences;
  args.tokens = cu_seqlens.back();
  args.heads = kHeads;
  args.segment_tokens = lists.plan.segment_tokens;
  args.schedule = {lists.walks.data(), lists.states.data(), lists.cut.data(), schedule.segments,
                   schedule.share};
  emulator::launch({1, kThreads, kScheduleCounters * 4, 1}, options, [&] { make_schedule<kThreads>(args); });
  return lists;
}

std::int64_t tokens_of(const Piece& piece, const std::vector<std::int64_t>& lengths, std::int64_t segment) {
  const std::int64_t all = lengths[static_cast<std::size_t>(piece.n)];
  return piece.index + 1 == piece.pieces ? all - piece.index * segment : segment;
}

/// Checks all that a schedule promises, and returns how many sequences it cuts.
int check_lists(const Lists& lists, const std::vector<std::int64_t>& lengths) {
  const std::int64_t segment = lists.plan.segment_tokens;
  const auto is_none = [](const Piece& piece) { return piece.n == -1; };
  std::map<int, std::vector<Piece>> found;
  double last = 1e18;
  const auto end = std::find_if(lists.walks.begin(), lists.walks.end(), is_none);
  REQUIRE(std::all_of(end, lists.walks.end(), is_none));
  for (auto piece = lists.walks.begin(); piece != end; ++piece) {
    REQUIRE(piece->n >= 0);
    REQUIRE(piece->n < static_cast<int>(lengths.size()));
    found[piece->n].push_back(*piece);
    const auto tokens = static_cast<double>(tokens_of(*piece, lengths, segment));
    REQUIRE(tokens <= 1.125 * last);  // an eighth of an octave
    last = tokens;
  }
  REQUIRE(found.size() == lengths.size());
  std::size_t followed = 0, cut = 0;
  std::vector<bool> taken(lists.states.size() + lists.cut.size());
  for (auto& [n, pieces] : found) {
    std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.index < b.index; });
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      REQUIRE(pieces[i].index == static_cast<int>(i));
      REQUIRE(pieces[i].pieces == static_cast<int>(pieces.size()));
      REQUIRE(pieces[i].first_slot == pieces.front().first_slot);
    }
    const std::int64_t length = lengths[static_cast<std::size_t>(n)];
    if (pieces.size() == 1) {
      REQUIRE(pieces.front().first_slot == -1);
      continue;
    }
    REQUIRE(length > 2 * segment);
    REQUIRE(static_cast<std::int64_t>(pieces.size()) == (length + segment - 1) / segment);
    ++cut;
    followed += pieces.size() - 1;
    for (std::size_t i = 0; i < pieces.size(); ++i) {
      const std::size_t slot = static_cast<std::size_t>(pieces.front().first_slot) + i;
      REQUIRE(slot < taken.size());
      REQUIRE(!taken[slot]);
      taken[slot] = true;
    }
  }
  REQUIRE(std::count_if(lists.states.begin(), lists.states.end(), is_none) ==
          static_cast<std::ptrdiff_t>(lists.states.size() - followed));
  for (std::size_t i = 0; i < followed; ++i) {
    const Piece& piece = lists.states[i];
    REQUIRE(piece.index + 1 < piece.pieces);
    REQUIRE(piece.first_slot == found[piece.n].front().first_slot);
    found[piece.n][static_cast<std::size_t>(piece.index)].n = -3;  // seen
  }
  std::size_t seen = 0;
  for (const auto& [n, pieces] : found)
    seen += static_cast<std::size_t>(
        std::count_if(pieces.begin(), pieces.end(), [](const Piece& piece) { return piece.n == -3; }));
  REQUIRE(seen == followed);
  REQUIRE(std::count_if(lists.cut.begin(), lists.cut.end(), is_none) ==
          static_cast<std::ptrdiff_t>(lists.cut.size() - cut));
  for (std::size_t i = 0; i < cut; ++i) {
    REQUIRE(lists.cut[i].index == 0);
    REQUIRE(lists.cut[i].first_slot == found[lists.cut[i].n].back().first_slot);
  }
  return static_cast<int>(cut);
}

int cut_of(const std::vector<std::int64_t>& lengths, int multiprocessors) {
  return check_lists(scheduled(lengths, multiprocessors), lengths);
}

}  // namespace

TEST_CASE("a schedule has every token of packed sequences once, whatever their lengths") {
  std::mt19937 random(test::test_seed());
  for (int round = 0; round < 150; ++round) {
    std::vector<std::int64_t> lengths(random() % 90 + 1);
    for (std::int64_t& length : lengths) length = random() % 4 == 0 ? 0 : std::int64_t{1} << random() % 14;
    for (std::int64_t& length : lengths)
      if (length > 1) length -= static_cast<std::int64_t>(random() % static_cast<unsigned>(length / 2));
    const int multiprocessors = round % 3 == 0 ? 0 : static_cast<int>(random() % 200 + 1);
    const Options options{static_cast<Order>(round % 3), random()};
    const Lists lists = scheduled(lengths, multiprocessors, options);
    if (lists.plan.schedule.walks > 0) check_lists(lists, lengths);
  }
}

TEST_CASE("a sequence is cut where it would keep most multiprocessors waiting, and nowhere else") {
  const std::vector<std::int64_t> equal(64, 2048);
  std::vector<std::int64_t> one_long(64, 256);
  one_long.push_back(16384);
  CHECK(cut_of(one_long, 132) == 1);
  CHECK(cut_of({40000, 40000}, 132) == 2);
  const std::int64_t share = scheduled(equal, 132).plan.schedule.share;
  CHECK(share > 2048 / 2);
  CHECK(share < 2048);  // less than a walk, which would be 1.6 of it, and half a segment, with states
  CHECK(cut_of(equal, 132) == 0);
  CHECK(scheduled({40000, 100}, 1).plan.schedule.segments == 0);  // four heads fill the device
}
