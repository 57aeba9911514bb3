#include "dispatch.h"

#include "catch.h"
#include "sample_table.h"

using namespace gla;
using namespace gla::test;

namespace {

TableCandidate candidate(Table table, TableFit fit, std::string path = "h100.yaml") {
  return {std::move(path), "shipped", fit, "a reason", std::move(table)};
}

Choice choice(const Dispatcher& dispatcher, const Problem& problem, const Workload& workload,
              Accuracy accuracy = Accuracy::standard) {
  return *dispatcher.choose(dispatcher.route(problem, accuracy), problem, workload, accuracy);
}

}  // namespace

TEST_CASE("a point of this GPU serves its bucket exactly and the rest as the nearest") {
  const Table table = sample_table();
  const Dispatcher dispatcher(h100(), {candidate(table, TableFit::same_gpu)}, 0);
  const Choice exact = choice(dispatcher, chunk_problem(), {1, 96, 8192, false});
  CHECK(exact.match == Match::exact);
  CHECK(exact.variant == table.problems[0].points[0].variant);
  CHECK(exact.table == "h100.yaml");
  const Choice near = choice(dispatcher, chunk_problem(), {2, 96, 20000, false});
  CHECK(near.match == Match::nearest);
  CHECK(near.variant == exact.variant);
  CHECK(near.reason.find("octaves away") != std::string::npos);
}

TEST_CASE(
    "packed sequences get what is best for a batch of their average length, in the form that balances them") {
  const Table table = sample_table();
  const Dispatcher dispatcher(h100(), {candidate(table, TableFit::same_gpu)}, 0);
  const Choice packed = choice(dispatcher, chunk_problem(), {2, 48, 16384, true});
  CHECK(packed.match == Match::exact);
  CHECK(packed.variant == packed_form(table.problems[0].points[0].variant));
  CHECK(packed.variant.family == Family::segmented);
  CHECK(check(chunk_problem(), hopper(), packed.variant).ok());
  CHECK(packed_form(packed.variant) == packed.variant);
  // A point of packed sequences is one as it is.
  Table measured = table;
  const Variant own = table.problems[0].points[0].variant;
  measured.problems[0].points = {point({2, 48, 16384, true}, own)};
  const Dispatcher by_points(h100(), {candidate(measured, TableFit::same_gpu)}, 0);
  CHECK(choice(by_points, chunk_problem(), {2, 48, 16384, true}).variant == own);
  CHECK(choice(Dispatcher(h100(), {}, 0), chunk_problem(), {2, 48, 16384, true}).variant.family ==
        Family::segmented);
  // Token by token there is nothing to balance.
  const Variant decode = table.problems[1].points[0].variant;
  CHECK(packed_form(decode) == decode);
}

TEST_CASE("a similar GPU's table serves, with its workloads scaled by the multiprocessors") {
  Table table = sample_table("NVIDIA H20", 66);
  table.problems[0].points = {point({1, 32, 2048, false}, variants(chunk_problem())[0]),
                              point({1, 64, 2048, false}, variants(chunk_problem())[1])};
  const Dispatcher dispatcher(h100(), {candidate(table, TableFit::similar_gpu)}, 0);
  const Choice chosen = choice(dispatcher, chunk_problem(), {1, 64, 2048, false});
  CHECK(chosen.match == Match::similar_gpu);
  // 64 heads on 132 multiprocessors fill the GPU as 32 do on 66.
  CHECK(chosen.variant == table.problems[0].points[0].variant);
  const Dispatcher half(h100(), {candidate(table, TableFit::similar_gpu)}, 66);
  CHECK(choice(half, chunk_problem(), {1, 64, 2048, false}).variant == table.problems[0].points[1].variant);
}

TEST_CASE("a problem that the first table lacks is served by the next one") {
  Table first = sample_table();
  first.problems.erase(first.problems.begin());
  const Dispatcher dispatcher(h100(),
                              {candidate(first, TableFit::asked_for, "first.yaml"),
                               candidate(sample_table(), TableFit::same_gpu, "second.yaml")},
                              0);
  CHECK(choice(dispatcher, recurrent_problem(), {64, 32, 1, false}).table == "first.yaml");
  CHECK(choice(dispatcher, chunk_problem(), {1, 96, 8192, false}).table == "second.yaml");
}

TEST_CASE("head dims that no table has borrow the points of close ones where the variants are legal") {
  const Dispatcher dispatcher(h100(), {candidate(sample_table(), TableFit::same_gpu)}, 0);
  const Choice borrowed = choice(dispatcher, chunk_problem(128, 112), {1, 96, 8192, false});
  CHECK(check(chunk_problem(128, 112), hopper(), borrowed.variant).ok());
  if (borrowed.match == Match::nearest) CHECK(borrowed.reason.find("K128 V128") != std::string::npos);
  CHECK(choice(dispatcher, chunk_problem(512, 512), {1, 96, 8192, false}).match == Match::model);
  Problem other = chunk_problem();
  other.dtype = other.gate_dtype = DType::fp16;
  CHECK(choice(dispatcher, other, {1, 96, 8192, false}).match == Match::model);
}

TEST_CASE("without a table the model chooses, the same for every workload of a bucket") {
  const Dispatcher dispatcher(h100(), {}, 0);
  const Choice chosen = choice(dispatcher, chunk_problem(), {4, 16, 2048, false});
  CHECK(chosen.match == Match::model);
  CHECK(chosen.table.empty());
  CHECK(check(chunk_problem(), hopper(), chosen.variant).ok());
  for (const std::int64_t tokens : {1500, 2000, 2047, 2500, 2800})
    CHECK(choice(dispatcher, chunk_problem(), {4, 16, tokens, false}).variant == chosen.variant);
  CHECK(choice(dispatcher, chunk_problem(), {1, 1, 1, true}).match == Match::model);
  CHECK(bucket_workload(bucket(coordinates({8, 8, 8192, true}))) == Workload{64, 1, 65536, true});
}

TEST_CASE("a ranked table counts as the model, with its path") {
  Table table = sample_table();
  table.origin.measured = false;
  const Dispatcher dispatcher(h100(), {candidate(table, TableFit::ranked, "ranked.yaml")}, 0);
  const Choice chosen = choice(dispatcher, chunk_problem(), {1, 96, 8192, false});
  CHECK(chosen.match == Match::model);
  CHECK(chosen.table == "ranked.yaml");
  CHECK(chosen.variant == table.problems[0].points[0].variant);
}

TEST_CASE("the default class never gets a variant meant for fast") {
  Table table = sample_table();
  for (Point& each : table.problems[0].points) each.accuracy = Accuracy::fast;
  const Dispatcher dispatcher(h100(), {candidate(table, TableFit::same_gpu)}, 0);
  CHECK(choice(dispatcher, chunk_problem(), {1, 96, 8192, false}).match == Match::model);
  CHECK(choice(dispatcher, chunk_problem(), {1, 96, 8192, false}, Accuracy::fast).match == Match::exact);
}

TEST_CASE("a problem that the architecture has no variant for is unsupported, by name") {
  driver::Device older = h100();
  older.architecture = *parse_architecture("sm_86");
  const Dispatcher dispatcher(older, {}, 0);
  Problem large = chunk_problem(512, 512);
  large.operation = Operation::chunk_backward;
  large.dtype = large.gate_dtype = DType::fp32;
  const Result<Choice> chosen = dispatcher.choose(dispatcher.route(large, Accuracy::standard), large,
                                                  {1, 96, 8192, false}, Accuracy::standard);
  CHECK(chosen.status().code() == StatusCode::unsupported);
  CHECK(chosen.status().message() ==
        to_string(large) + " has no variant of accuracy default that fits sm_86; smaller head dims have");
}

TEST_CASE("foreign and unreadable tables are never used") {
  const Dispatcher dispatcher(
      h100(), {candidate(sample_table(), TableFit::foreign), candidate({}, TableFit::unreadable)}, 0);
  CHECK(dispatcher.tables().empty());
  CHECK(choice(dispatcher, chunk_problem(), {1, 96, 8192, false}).match == Match::model);
}
