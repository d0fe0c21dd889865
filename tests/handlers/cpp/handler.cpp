// Test handler in C++: the behaviour is chosen by the path.
#include <nuclio_handler.hpp>

#include <chrono>
#include <thread>

using nuclio::Context;
using nuclio::Error;
using nuclio::Event;
using nuclio::Response;

class TestHandler : public nuclio::Handler {
  public:
    void init(Context &context) override {
        if (context.worker_id() == 13) throw Error("no worker 13 today");
        if (context.worker_id() == 14) throw std::logic_error("odd worker");
    }

    Response handle(Context &context, const Event &event) override {
        const auto path = event.path();
        if (path == "/empty") return {};
        if (path == "/echo") return Response().share(event.body());
        if (path == "/echo-typed") return Response().share(event.body()).content_type(std::string(event.content_type()));
        if (path == "/respond") return Response("fixed").status(201).content_type("text/x-test").header("X-A", "1");
        if (path == "/owned") return Response(std::string(event.body()));
        if (path == "/error") throw Error("it broke");
        if (path == "/error-status") throw Error("no such thing", 404);
        if (path == "/panic") throw std::runtime_error("boom");
        if (path == "/panic-int") throw 7;
        if (path == "/no-ack") return Response().no_ack();
        if (path == "/sleep") {
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
            return {};
        }
        if (path == "/log") {
            context.info("hello from C++", {{"t", "v"}, {"i", -5}, {"f", 1.5}, {"b", true}, nuclio::Field::json("j", "[1]")});
            return "logged";
        }
        if (path == "/describe") {
            std::string out;
            for (auto [name, value] : event.fields()) out.append(name).append("=").append(value).append(";");
            return out + std::string(event.header("x-thing").value_or("none")) + std::to_string(event.cancelled());
        }
        if (path == "/stream") return stream(3, false);
        if (path == "/stream-fails") return stream(3, true);
        if (path == "/crash") *static_cast<volatile int *>(nullptr) = 1;
        throw Error("unknown behaviour", 404);
    }

    void control(Context &, std::uint32_t what) override {
        if (what == NH_CONTINUE) throw Error("cannot continue");
    }

  private:
    static Response stream(int left, bool fails) {
        return Response().stream([left, fails](std::string &chunk) mutable {
            if (left == 0 && fails) throw std::runtime_error("no more");
            if (left == 0) return false;
            chunk = "chunk" + std::to_string(left--) + ";";
            return true;
        });
    }
};

NUCLIO_EXPORT_HANDLER(TestHandler)
