# make run: serve the demo. make test: prove it. make help: the rest.
CC      ?= gcc
FLAVOUR ?= release
BUILD   ?= build
PYTHON  ?= python3

OBJ     := $(BUILD)/$(FLAVOUR)
LIBS    := libmicrohttpd libuv libcjson libpcre2-8 libsodium libutf8proc sqlite3 libarchive
WARN    := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wwrite-strings \
           -Wcast-qual -Wvla
WERROR  := $(if $(CI),-Werror)
OPT     := -O2 -g
ifeq ($(FLAVOUR),asan)
OPT     := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer \
          -Wno-format-truncation # gcc with ubsan takes a checked format string for NULL
endif
ifeq ($(FLAVOUR),tsan)
OPT     := -O1 -g -fsanitize=thread -Wno-tsan # it does not know fences; they stand between processes
endif
ifeq ($(FLAVOUR),fuzz)
CC      := clang
OPT     := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
endif
VERSION := 0.1.0
# A product and an addition become one where the code says so, and nowhere else: see core/kernels/body.h.
CFLAGS  := -std=gnu11 -ffp-contract=off $(OPT) $(WARN) $(WERROR) -I. -DPREFIXD_VERSION='"$(VERSION)"' \
           $(shell pkg-config --cflags $(LIBS) 2>/dev/null)
LDLIBS  := $(shell pkg-config --libs $(LIBS) 2>/dev/null) -lm -lpthread

SRC      := $(wildcard core/*.c core/*/*.c adapters/*.c config/*.c server/*.c)
LIB_OBJ  := $(patsubst %.c,$(OBJ)/%.o,$(filter-out server/main.c,$(SRC)))
FAKE     := tests/support/fake_engine.c
ORDER    := tests/support/order.c # a library to be preloaded, built by its test
TEST_SRC := $(filter-out $(FAKE) $(ORDER),$(wildcard tests/unit/*.c tests/unit/*/*.c tests/unit/*/*/*.c tests/support/*.c))
SOAK_SRC := $(wildcard tests/soak/*.c) $(filter tests/unit/main.c tests/support/%,$(TEST_SRC))
SOAK_OBJ := $(patsubst %.c,$(OBJ)/%.o,$(SOAK_SRC))
TEST_OBJ := $(patsubst %.c,$(OBJ)/%.o,$(TEST_SRC))
SRV_OBJ  := $(patsubst %.c,$(OBJ)/%.o,$(wildcard tests/server/*.c) $(FAKE) tests/support/adapter_files.c tests/unit/main.c) \
            $(filter-out $(OBJ)/core/engine.o,$(LIB_OBJ))
FUZZ     := $(patsubst tests/fuzz/%.c,$(OBJ)/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))
BENCH_OBJ := $(patsubst %.c,$(OBJ)/%.o,$(wildcard scripts/bench/*.c))
DAEMON   := $(if $(filter release,$(FLAVOUR)),$(BUILD)/prefixd,$(OBJ)/prefixd)
BENCH    := $(DAEMON)-bench

.PHONY: all setup run test bench soak check unit asan tsan fuzz fuzzers golden docker clean help fmt
.DELETE_ON_ERROR:

all: $(DAEMON) ## build the daemon (build/prefixd)

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST)

setup: ## install what building and testing need (Debian packages)
	@scripts/setup

run: ## serve the demo model with its adapters, or MODEL=PATH ADAPTERS=DIR
	@scripts/run "$(MODEL)" "$(ADAPTERS)"

test: ## install what is missing, build, run every test
	@scripts/test

bench: $(BENCH) ## measure the engine on the demo model, or MODEL=PATH, into build/bench
	@scripts/bench/run $(BENCH) $(BUILD)/bench "$(MODEL)" $(BENCH_FLAGS)

soak: $(OBJ)/soak-tests $(DAEMON) ## long measurements by wall time, SOAK_SECONDS (60) for each
	@PREFIXD_ROOT="$(CURDIR)" $(OBJ)/soak-tests
	@PREFIXD_BIN="$(abspath $(DAEMON))" $(PYTHON) tests/soak/soak.py

check: ## include rules of the layers, and a list of long functions to look at
	@scripts/check_layers
	@scripts/sizes

unit: $(OBJ)/unit-tests $(OBJ)/server-tests
asan tsan: ## build daemon and tests with sanitizers
	@$(MAKE) --no-print-directory FLAVOUR=$@ all unit
fuzzers: $(FUZZ)
fuzz: ## fuzz every parser for FUZZ_SECONDS (60) each
	@$(MAKE) --no-print-directory FLAVOUR=fuzz fuzzers
	@scripts/fuzz $(BUILD)/fuzz/fuzz

# The kernels of one instruction set each; the daemon chooses at run time.
KERNEL := -O3 -fno-math-errno -fno-trapping-math
$(OBJ)/core/rope.o:            CFLAGS += -O3
$(OBJ)/core/kernels/generic.o: CFLAGS += $(KERNEL)
$(OBJ)/core/kernels/avx2.o:    CFLAGS += $(KERNEL) -mavx2 -mfma -mf16c
$(OBJ)/core/kernels/avx512bf16.o: CFLAGS += $(KERNEL) -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -mfma -mprefer-vector-width=512
$(OBJ)/core/kernels/avx512.o $(OBJ)/core/kernels/avx512vnni.o: CFLAGS += $(KERNEL) -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mprefer-vector-width=512
$(OBJ)/core/kernels/quant_generic.o: CFLAGS += $(KERNEL)
$(OBJ)/core/kernels/quant_avx2.o:    CFLAGS += $(KERNEL) -mavx2 -mfma
$(OBJ)/core/kernels/quant_avx512.o:  CFLAGS += $(KERNEL) -mavx512f -mavx512bw -mavx512vl -mfma -mprefer-vector-width=512
$(OBJ)/core/kernels/quant_vnni.o:    CFLAGS += $(KERNEL) -mavx512f -mavx512bw -mavx512vl -mavx512vnni -mfma -mprefer-vector-width=512

# Loops over whole models, for the vectors that every CPU has.
$(OBJ)/core/base/dtype.o $(OBJ)/core/model/dequant.o $(OBJ)/core/model/panels.o: CFLAGS += -O3

$(DAEMON): $(OBJ)/server/main.o $(LIB_OBJ)
	$(CC) $(CFLAGS) -o $@ $^ $(LDLIBS)

$(OBJ)/unit-tests: $(TEST_OBJ) $(LIB_OBJ)
	$(CC) $(CFLAGS) -o $@ $^ $(LDLIBS) $(shell pkg-config --libs openblas 2>/dev/null)

$(OBJ)/soak-tests: $(SOAK_OBJ) $(LIB_OBJ)
	$(CC) $(CFLAGS) -o $@ $^ $(LDLIBS)

$(BENCH): $(BENCH_OBJ) $(filter $(OBJ)/core/%,$(LIB_OBJ))
	$(CC) $(CFLAGS) -o $@ $^ $(LDLIBS)

# The server over an engine without a model.
$(OBJ)/server-tests: $(SRV_OBJ)
	$(CC) $(CFLAGS) -o $@ $^ $(LDLIBS)

$(OBJ)/fuzz/%: $(OBJ)/tests/fuzz/%.o $(LIB_OBJ)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -fsanitize=fuzzer -o $@ $^ $(LDLIBS)

$(OBJ)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -MMD -MP -c -o $@ $<

golden: ## make tests/golden again (needs torch, transformers and PEFT)
	$(PYTHON) scripts/make_golden.py all

docker: ## build the image
	docker build -t prefixd .

fmt: ## reformat with clang-format
	clang-format -i $(SRC) $(wildcard core/*.h core/*/*.h adapters/*.h config/*.h server/*.h)

clean: ## forget everything built
	rm -rf $(BUILD)

-include $(wildcard $(OBJ)/*.d $(OBJ)/*/*.d $(OBJ)/*/*/*.d $(OBJ)/*/*/*/*.d $(OBJ)/*/*/*/*/*.d)
