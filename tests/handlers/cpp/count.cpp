// Counts the bytes of a body while it arrives.
#include <nuclio_handler.hpp>

#include <array>

class Counter : public nuclio::Handler {
  public:
    nuclio::Response handle(nuclio::Context &, const nuclio::Event &event) override {
        static thread_local std::array<char, 50000> buffer;
        std::size_t total = 0;
        while (std::size_t bytes = event.read(buffer.data(), buffer.size())) total += bytes;
        return std::to_string(total) + " c++";
    }
};

NUCLIO_EXPORT_HANDLER_WITH(Counter, NH_FEATURE_STREAM_BODY)
