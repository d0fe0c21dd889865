// nuclio_handler.hpp: handlers in C++17, header only. Derive from nuclio::Handler, name the class in
// NUCLIO_EXPORT_HANDLER, build a shared library with -fvisibility=hidden. No exception leaves the library.
#ifndef NUCLIO_HANDLER_HPP
#define NUCLIO_HANDLER_HPP

#include "nuclio_handler.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace nuclio {

// ---- details: views of the C structs ---------------------------------------------------------------------------

namespace detail {

inline std::string_view view(nh_str s) noexcept {
    return s.ptr ? std::string_view(reinterpret_cast<const char *>(s.ptr), s.len) : std::string_view();
}

inline nh_str raw(std::string_view s) noexcept {
    return nh_str{reinterpret_cast<const std::uint8_t *>(s.data()), s.size()};
}

// Copies a struct of the host, which may know fewer or more fields than we do.
template <class T> T copy_sized(const T *from) noexcept {
    T copy;
    std::memset(static_cast<void *>(&copy), 0, sizeof copy);
    std::memcpy(static_cast<void *>(&copy), from, from->size < sizeof copy ? from->size : sizeof copy);
    return copy;
}

inline bool same_without_case(std::string_view a, std::string_view b) noexcept {
    auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
    if (a.size() != b.size()) return false;
    for (std::size_t i = 0; i < a.size(); ++i)
        if (lower(a[i]) != lower(b[i])) return false;
    return true;
}

} // namespace detail

// ---- errors ----------------------------------------------------------------------------------------------------

// Thrown by a handler: the client sees the status (500 unless given) and the text. Any other std::exception is
// answered as a caught panic.
class Error : public std::runtime_error {
  public:
    explicit Error(const std::string &message, std::uint16_t status = 500)
        : std::runtime_error(message), status_(status) {}
    std::uint16_t status() const noexcept { return status_; }

  private:
    std::uint16_t status_;
};

// ---- event -----------------------------------------------------------------------------------------------------

// What came in. Everything is a view into the processor's memory: valid during handle(), and as long as an answer
// made with Response::share is on its way.
class Event {
  public:
    Event(const nh_event *raw, const nh_host *host) noexcept : raw_(raw), host_(host) {}

    std::string_view id() const noexcept { return detail::view(raw_->id); }
    std::string_view method() const noexcept { return detail::view(raw_->method); }
    std::string_view path() const noexcept { return detail::view(raw_->path); }
    std::string_view query() const noexcept { return detail::view(raw_->query); }
    std::string_view url() const noexcept { return detail::view(raw_->url); }
    std::string_view content_type() const noexcept { return detail::view(raw_->content_type); }
    std::string_view trigger_class() const noexcept { return detail::view(raw_->trigger_class); }
    std::string_view trigger_kind() const noexcept { return detail::view(raw_->trigger_kind); }
    std::string_view trigger_name() const noexcept { return detail::view(raw_->trigger_name); }
    std::string_view type() const noexcept { return detail::view(raw_->type); }
    std::string_view type_version() const noexcept { return detail::view(raw_->type_version); }
    std::string_view version() const noexcept { return detail::view(raw_->version); }
    std::string_view topic() const noexcept { return detail::view(raw_->topic); }
    std::string_view body() const noexcept { return detail::view(raw_->body); }
    bool has_body() const noexcept { return !(raw_->flags & NH_EVENT_NO_BODY); }
    bool body_is_json() const noexcept { return raw_->flags & NH_EVENT_BODY_JSON; }
    bool is_cloud_event() const noexcept { return raw_->flags & NH_EVENT_CLOUD; }
    std::int64_t timestamp_ns() const noexcept { return raw_->timestamp_ns; }
    std::int64_t deadline_ns() const noexcept { return raw_->deadline_ns; } // CLOCK_MONOTONIC; 0: none
    std::int64_t offset() const noexcept { return raw_->offset; }
    std::int32_t shard_id() const noexcept { return raw_->shard_id; }
    std::int32_t num_shards() const noexcept { return raw_->num_shards; }

    // Headers in order with repeats; names such as X-Abc.
    std::vector<std::pair<std::string_view, std::string_view>> headers() const { return pairs(raw_->headers); }

    // First value of a header; names are compared without case.
    std::optional<std::string_view> header(std::string_view name) const noexcept {
        for (std::size_t i = 0; i < raw_->headers.len; ++i) {
            const nh_pair &pair = raw_->headers.items[i];
            if (detail::same_without_case(detail::view(pair.name), name)) return detail::view(pair.value);
        }
        return std::nullopt;
    }

    // All values of a header, in order; names are compared without case.
    std::vector<std::string_view> header_values(std::string_view name) const {
        std::vector<std::string_view> out;
        for (std::size_t i = 0; i < raw_->headers.len; ++i) {
            const nh_pair &pair = raw_->headers.items[i];
            if (detail::same_without_case(detail::view(pair.name), name)) out.push_back(detail::view(pair.value));
        }
        return out;
    }

    // With NH_FEATURE_STREAM_BODY: waits for the next bytes of the body and returns how many there are, 0 at its end.
    // Throws when no more comes and nobody waits for an answer: client gone, too slow, too large, deadline.
    std::size_t read(char *buffer, std::size_t size) const {
        std::string_view rest = body().substr(read_);
        if (!rest.empty() || !(raw_->flags & NH_EVENT_MORE)) {
            std::size_t n = rest.copy(buffer, size);
            return read_ += n, n;
        }
        std::size_t n = 0;
        nh_result result = host_->read ? host_->read(raw_, reinterpret_cast<std::uint8_t *>(buffer), size, &n) : NH_UNSUPPORTED;
        if (result != NH_OK && result != NH_END) throw Error("no more of the body comes", 400);
        return n;
    }

    // Query arguments, decoded, in order with repeats.
    std::vector<std::pair<std::string_view, std::string_view>> fields() const {
        return host_->fields ? pairs(host_->fields(raw_)) : pairs(nh_pairs{nullptr, 0});
    }

    // 0, or why nobody waits for the answer any more: 1 deadline, 2 client gone, 3 shutdown. While calls are short
    // the processor does not look whether clients leave, so the first long one may not be told.
    int cancelled() const noexcept { return host_->cancelled ? host_->cancelled(raw_) : 0; }

    // Scratch memory that lives as long as the event; throws std::bad_alloc past its limit (64 MiB).
    char *alloc(std::size_t size, std::size_t align = alignof(std::max_align_t)) const {
        void *memory = host_->alloc ? host_->alloc(raw_, size, align) : nullptr;
        if (!memory) throw std::bad_alloc();
        return static_cast<char *>(memory);
    }

    const nh_event *raw() const noexcept { return raw_; }

  private:
    static std::vector<std::pair<std::string_view, std::string_view>> pairs(nh_pairs raw) {
        std::vector<std::pair<std::string_view, std::string_view>> out;
        out.reserve(raw.len);
        for (std::size_t i = 0; i < raw.len; ++i)
            out.emplace_back(detail::view(raw.items[i].name), detail::view(raw.items[i].value));
        return out;
    }

    const nh_event *raw_;
    const nh_host *host_;
    mutable std::size_t read_ = 0;
};

// ---- response --------------------------------------------------------------------------------------------------

class Response {
  public:
    Response() = default;
    Response(std::string body) : body_(std::move(body)) {}
    Response(const char *body) : body_(body) {}

    Response &status(std::uint16_t status) & { return status_ = status, *this; }
    Response &content_type(std::string type) & { return content_type_ = std::move(type), *this; }
    Response &body(std::string body) & { return body_ = std::move(body), shared_ = {}, *this; }
    Response &header(std::string name, std::string value) & {
        return headers_.emplace_back(std::move(name), std::move(value)), *this;
    }
    Response &no_ack() & { return no_ack_ = true, *this; }

    // The body without a copy: bytes of the event that is answered, or static ones.
    Response &share(std::string_view bytes) & { return shared_ = bytes, *this; }

    // The body in pieces, made as the client reads: fills in a chunk and returns true, or returns false at the end.
    // An exception cuts the client's connection. The worker takes no other event meanwhile.
    Response &stream(std::function<bool(std::string &chunk)> next) & { return next_ = std::move(next), *this; }

    // The same on temporaries: return Response().status(201).body("made");
    Response &&status(std::uint16_t s) && { return std::move(status(s)); }
    Response &&content_type(std::string t) && { return std::move(content_type(std::move(t))); }
    Response &&body(std::string b) && { return std::move(body(std::move(b))); }
    Response &&header(std::string n, std::string v) && { return std::move(header(std::move(n), std::move(v))); }
    Response &&no_ack() && { return std::move(no_ack()); }
    Response &&share(std::string_view b) && { return std::move(share(b)); }
    Response &&stream(std::function<bool(std::string &)> n) && { return std::move(stream(std::move(n))); }

    // For the table: moves this answer to the heap where needed and fills in the host's struct.
    void give(nh_response *out) &&;

  private:
    struct Owner;
    static void release(void *owner) noexcept;
    static nh_result pull(void *owner, nh_str *chunk) noexcept;

    std::uint16_t status_ = 0;
    bool no_ack_ = false;
    std::string content_type_, body_;
    std::string_view shared_;
    std::vector<std::pair<std::string, std::string>> headers_;
    std::function<bool(std::string &)> next_;
};

struct Response::Owner {
    Response answer;
    std::vector<nh_pair> pairs;
    std::string chunk;
};

inline void Response::give(nh_response *out) && {
    out->status = status_;
    out->flags = static_cast<std::uint16_t>((no_ack_ ? NH_RESPONSE_NO_ACK : 0) | (next_ ? NH_RESPONSE_STREAM : 0));
    if (content_type_.empty() && headers_.empty() && body_.empty() && !next_) {
        out->body = detail::raw(shared_);
        return;
    }
    auto owner = std::make_unique<Owner>();
    owner->answer = std::move(*this);
    Response &answer = owner->answer;
    for (auto &[name, value] : answer.headers_) owner->pairs.push_back({detail::raw(name), detail::raw(value)});
    out->content_type = detail::raw(answer.content_type_);
    out->headers = nh_pairs{owner->pairs.data(), owner->pairs.size()};
    out->body = detail::raw(answer.shared_.data() ? answer.shared_ : std::string_view(answer.body_));
    out->next = answer.next_ ? pull : nullptr;
    out->release = release;
    out->owner = owner.release();
}

inline void Response::release(void *owner) noexcept { delete static_cast<Owner *>(owner); }

inline nh_result Response::pull(void *raw, nh_str *chunk) noexcept {
    try {
        auto *owner = static_cast<Owner *>(raw);
        owner->chunk.clear();
        if (!owner->answer.next_(owner->chunk)) return NH_END;
        *chunk = detail::raw(owner->chunk);
        return NH_OK;
    } catch (...) {
        return NH_ERROR;
    }
}

// ---- context ---------------------------------------------------------------------------------------------------

// A named value of a log record.
class Field {
  public:
    Field(std::string_view name, std::string_view text) noexcept { set(name, NH_TEXT).as.text = detail::raw(text); }
    Field(std::string_view name, const char *text) noexcept : Field(name, std::string_view(text)) {}
    Field(std::string_view name, const std::string &text) noexcept : Field(name, std::string_view(text)) {}
    Field(std::string_view name, bool truth) noexcept { set(name, NH_BOOL).as.integer = truth; }
    Field(std::string_view name, double real) noexcept { set(name, NH_FLOAT).as.real = real; }
    Field(std::string_view name, int number) noexcept { set(name, NH_INT).as.integer = number; }
    Field(std::string_view name, long number) noexcept { set(name, NH_INT).as.integer = number; }
    Field(std::string_view name, long long number) noexcept { set(name, NH_INT).as.integer = number; }

    // A finished JSON text; embedded as it is.
    static Field json(std::string_view name, std::string_view text) noexcept {
        Field field(name, text);
        field.raw_.value.kind = NH_JSON;
        return field;
    }
    const nh_field &raw() const noexcept { return raw_; }

  private:
    nh_value &set(std::string_view name, std::uint32_t kind) noexcept {
        raw_.name = detail::raw(name);
        raw_.value.kind = kind;
        raw_.value.reserved = 0;
        return raw_.value;
    }
    nh_field raw_;
};

// A worker's surroundings. Records logged during handle() belong to the event that is handled.
class Context {
  public:
    Context(const nh_host &host, const nh_config &config, const nh_worker_config &worker)
        : host_(host), config_(config), ref_(worker.worker_ref), worker_id_(worker.worker_id),
          trigger_kind_(detail::view(worker.trigger_kind)), trigger_name_(detail::view(worker.trigger_name)) {}
    Context(const Context &) = delete;
    Context &operator=(const Context &) = delete;

    std::string_view function_name() const noexcept { return detail::view(config_.function_name); }
    std::string_view function_namespace() const noexcept { return detail::view(config_.namespace_); }
    std::string_view project() const noexcept { return detail::view(config_.project); }
    std::string_view platform_kind() const noexcept { return detail::view(config_.platform_kind); }
    std::string_view handler() const noexcept { return detail::view(config_.handler); }
    std::string_view config_yaml() const noexcept { return detail::view(config_.config_yaml); }
    std::int64_t function_version() const noexcept { return config_.function_version; }
    std::string_view trigger_kind() const noexcept { return trigger_kind_; }
    std::string_view trigger_name() const noexcept { return trigger_name_; }
    std::int32_t worker_id() const noexcept { return worker_id_; }

    // Whether anybody wants records of this level (NH_LOG_DEBUG …) now.
    bool wants(std::uint32_t level) const noexcept {
        return !host_.log_level || level >= host_.log_level(ref_, event_);
    }
    void log(std::uint32_t level, std::string_view message, std::initializer_list<Field> fields = {}) const {
        if (!host_.log || !wants(level)) return;
        std::vector<nh_field> raw;
        raw.reserve(fields.size());
        for (const Field &field : fields) raw.push_back(field.raw());
        host_.log(ref_, event_, level, detail::raw(message), raw.data(), raw.size());
    }
    void debug(std::string_view m, std::initializer_list<Field> f = {}) const { log(NH_LOG_DEBUG, m, f); }
    void info(std::string_view m, std::initializer_list<Field> f = {}) const { log(NH_LOG_INFO, m, f); }
    void warn(std::string_view m, std::initializer_list<Field> f = {}) const { log(NH_LOG_WARN, m, f); }
    void error(std::string_view m, std::initializer_list<Field> f = {}) const { log(NH_LOG_ERROR, m, f); }

    const nh_host *host() const noexcept { return &host_; }

    // For the table: the event in handle().
    void enter(const nh_event *event) noexcept { event_ = event; }

  private:
    const nh_host host_;
    const nh_config config_;
    void *ref_;
    std::int32_t worker_id_;
    std::string trigger_kind_, trigger_name_;
    const nh_event *event_ = nullptr;
};

// ---- handler ---------------------------------------------------------------------------------------------------

// The function: one object per worker, called with one event at a time.
class Handler {
  public:
    virtual ~Handler() = default;
    // Once, before the first event. An exception stops the processor's start.
    virtual void init(Context &) {}
    virtual Response handle(Context &, const Event &) = 0;
    // NH_DRAIN, NH_CONTINUE or NH_TERMINATE, between events. Returning is the acknowledgement.
    virtual void control(Context &, std::uint32_t) {}
};

namespace detail {

struct Process {
    nh_host host;
    nh_config config;
};

struct Worker {
    Worker(const Process &process, const nh_worker_config &config) : context(process.host, process.config, config) {}
    Context context;
    std::unique_ptr<Handler> handler;
};

// The text lives in a heap string that release() frees; without memory for it the call fails without text.
inline nh_result fail(nh_response *out, nh_result result, const char *prefix, const char *text,
                      std::uint16_t status) noexcept {
    try {
        Response(std::string(prefix) + text).status(status).give(out);
    } catch (...) {
    }
    return result;
}

// Runs a part of the handler; every exception ends here.
template <class F> nh_result guarded(nh_response *out, F &&run) noexcept {
    try {
        run();
        return NH_OK;
    } catch (const Error &error) {
        return fail(out, NH_ERROR, "", error.what(), error.status());
    } catch (const std::exception &error) {
        return fail(out, NH_PANIC, "Caught panic: ", error.what(), 0);
    } catch (...) {
        return fail(out, NH_PANIC, "Caught panic: ", "an exception of unknown type", 0);
    }
}

inline nh_result start(const nh_host *host, const nh_config *config, void **plugin, nh_response *error) noexcept {
    return guarded(error, [&] { *plugin = new Process{copy_sized(host), copy_sized(config)}; });
}

template <class H>
nh_result worker_start(void *plugin, const nh_worker_config *config, void **worker, nh_response *error) noexcept {
    return guarded(error, [&] {
        auto made = std::make_unique<Worker>(*static_cast<Process *>(plugin), copy_sized(config));
        made->handler = std::make_unique<H>();
        made->handler->init(made->context);
        *worker = made.release();
    });
}

inline nh_result handle(void *raw, const nh_event *event, nh_response *response) noexcept {
    auto *worker = static_cast<Worker *>(raw);
    worker->context.enter(event);
    nh_result result = guarded(response, [&] {
        worker->handler->handle(worker->context, Event(event, worker->context.host())).give(response);
    });
    worker->context.enter(nullptr);
    return result;
}

inline nh_result control(void *raw, std::uint32_t what) noexcept {
    auto *worker = static_cast<Worker *>(raw);
    nh_response ignored{};
    nh_result result = guarded(&ignored, [&] { worker->handler->control(worker->context, what); });
    if (ignored.release) ignored.release(ignored.owner);
    return result;
}

inline void worker_stop(void *worker) noexcept { delete static_cast<Worker *>(worker); }

inline void stop(void *plugin) noexcept { delete static_cast<Process *>(plugin); }

} // namespace detail
} // namespace nuclio

// Writes the two symbols of the library, with NH_FEATURE_… bits.
#define NUCLIO_EXPORT_HANDLER_WITH(Type, feature_bits)                                                                  \
    extern "C" const uint32_t nh_abi_version = NH_ABI_VERSION;                                                         \
    extern "C" const nh_plugin *nh_plugin_v1(void) {                                                                   \
        static const nh_plugin table = {sizeof(nh_plugin),                                                             \
                                        NH_ABI_VERSION,                                                                \
                                        (feature_bits),                                                                \
                                        "c++",                                                                         \
                                        "1.0",                                                                         \
                                        nuclio::detail::start,                                                         \
                                        nuclio::detail::worker_start<Type>,                                            \
                                        nuclio::detail::handle,                                                        \
                                        nullptr,                                                                       \
                                        nuclio::detail::control,                                                       \
                                        nuclio::detail::worker_stop,                                                   \
                                        nuclio::detail::stop};                                                         \
        return &table;                                                                                                 \
    }

// Writes the two symbols of the library. Once per library.
#define NUCLIO_EXPORT_HANDLER(Type) NUCLIO_EXPORT_HANDLER_WITH(Type, 0)

#endif
