/* Every setting, one row each: the one place that knows names, defaults, ranges and units.
 *
 * Rows: S(field, flag or NULL, key, default, accepted values "a|b" or NULL, doc)
 *       I(field, flag or NULL, key, default, min, max, unit, doc)       0 often means "choose"
 *       B(field, flag or NULL, key, default, doc)
 * A flag is given as --flag VALUE (or --flag=VALUE); a key stands in the JSON file of --config. */
#ifndef PREFIXD_CONFIG_KEYS_H
#define PREFIXD_CONFIG_KEYS_H

#define CONFIG_KEYS(S, I, B)                                                                               \
    S(model, "model", "model", "", NULL, "Hugging Face directory or GGUF file of the base model")          \
    S(name, "name", "name", "", NULL, "the base model's name in the API (default: from the path)")         \
    S(adapters, "adapters", "adapters", "", NULL, "folder of adapters to load, and to watch for changes")  \
    S(listen, "listen", "listen", "127.0.0.1:8080", NULL, "address and port; port 0 picks a free one")     \
    S(dtype, "dtype", "dtype", "auto", "auto|f32|bf16|int8|int4", "how weights are kept in memory")                  \
    I(workers, "workers", "workers", 1, 1, 64, "processes", "workers over one copy of the base model")     \
    I(threads, "threads", "threads", 0, 0, 1024, "threads",                                                \
      "compute threads of a worker; 0: its share of the cores")                                            \
    I(ctx, "ctx", "ctx", 0, 0, 16777216, "tokens", "context limit; 0: the model's maximum")                \
    I(kv_bytes, "kv-bytes", "kv_bytes", 0, 0, INT64_MAX, "bytes",                                          \
      "KV pools of all workers together; 0: chosen from the context")                                      \
    I(adapter_bytes, "adapter-bytes", "adapter_bytes", 0, 0, INT64_MAX, "bytes",                           \
      "compiled adapters in memory, in all workers together; 0: a quarter of the memory")                  \
    I(max_batch, "max-batch", "max_batch", 32, 1, 1024, "sequences",                              \
      "sequences running at once")                              \
    B(text_cache, "text-cache", "text_cache", true,                                                        \
      "prompts take what their tenant's earlier ones computed of the same text")                           \
    S(state, "state", "state", "", NULL,                                                                   \
      "folder of the registry: tenants, keys, adapters, usage; none: gone with the daemon")                \
    S(api_key_file, "api-key-file", "api_key_file", "", NULL,                                              \
      "file of bearer keys, one a line, of the tenant default")                                            \
    S(admin_key_file, "admin-key-file", "admin_key_file", "", NULL,                                        \
      "file of administrators' bearer keys, one a line")                                                   \
    S(lora_root, "lora-root", "lora_root", "", NULL,                                                       \
      "folder of tenants' folders for /v1/load_lora_adapter; none: it is off")                             \
    S(log_format, "log-format", "log_format", "text", "text|json", "form of the log lines on stderr")      \
    S(config, "config", NULL, "", NULL, "JSON file with any of these keys")                                \
    B(allow_open, NULL, "allow_unauthenticated_remote", false,                                             \
      "listen beyond loopback without keys")                                                               \
    I(max_queue, NULL, "max_queue", 1024, 1, 1000000, "sequences", "sequences waiting at once")            \
    I(prefill_chunk, NULL, "prefill_chunk", 256, 1, 4096, "rows", "the most prompt rows of a step")        \
    I(step_target_ms, NULL, "step_target_ms", 0, 0, 60000, "ms",                                           \
      "how long prompt rows may make a step that others' tokens wait for; 0: twice what it takes without") \
    I(max_body, NULL, "max_body_bytes", 1048576, 1024, 1073741824, "bytes", "body of a completion")        \
    I(max_upload, NULL, "max_upload_bytes", 268435456, 1024, 4294967296, "bytes", "body of an adapter PUT") \
    I(max_virtual, NULL, "max_virtual_tokens", 0, 0, 16777216, "tokens",                                   \
      "virtual tokens of an adapter; 0: the context limit less one")                                       \
    I(keep_versions, NULL, "keep_versions", 10, 1, 1000, "versions",                                       \
      "versions kept of an adapter, the current one included")                                            \
    I(deadline_ms, NULL, "request_deadline_ms", 600000, 100, 86400000, "ms", "a request's longest life")   \
    I(body_timeout_ms, NULL, "body_timeout_ms", 60000, 100, 86400000, "ms",                                \
      "how long a body may take to come; an adapter PUT gets a second more per 64 KiB")                    \
    I(drain_ms, NULL, "drain_ms", 30000, 0, 3600000, "ms", "how long SIGTERM lets requests finish")        \
    I(idle_timeout_s, NULL, "idle_timeout_s", 60, 1, 86400, "s", "keep-alive without a request")           \
    I(max_connections, NULL, "max_connections", 4096, 1, 1000000, "connections",                           \
      "open at once, in all workers together")                                                             \
    I(connection_memory, NULL, "connection_memory_bytes", 16384, 4096, 1048576, "bytes",                   \
      "of each connection; headers up to half of it, larger ones slow their bodies down")                    \
    S(cors_origin, NULL, "cors_origin", "", NULL, "origin allowed to call from a browser; empty: none")

#endif
