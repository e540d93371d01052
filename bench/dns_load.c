/* Load for bench/dns_proxy.py: client and upstream server in one process, so that neither is a Python program that
 * shares caches and interpreter with the one that is measured.
 *
 *   dns_load SERVER_PORT UPSTREAM_FD RATE TOTAL FIRST LOCAL
 *
 * Sends TOTAL queries at RATE a second to 127.0.0.1:SERVER_PORT: all for turn.ims.example (LOCAL 1), or for n<FIRST>,
 * n<FIRST+1> ... .www.other.example (LOCAL 0), which it answers itself as the upstream on the inherited socket.
 * Prints: right answers, wrong answers.  Every answer's ID, question, response code and record count are checked.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static const unsigned char tail_other[] = "\3www\5other\7example\0\0\1\0\1";
static const unsigned char local_question[] = "\4turn\3ims\7example\0\0\1\0\1";
static const unsigned char record[] = "\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xcb\0\x71\x0a";

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static size_t question(unsigned char *out, long number, int local) {
    if (local) {
        memcpy(out, local_question, sizeof local_question - 1);
        return sizeof local_question - 1;
    }
    int length = sprintf((char *)out + 1, "n%ld", number);
    out[0] = (unsigned char)length;
    memcpy(out + 1 + length, tail_other, sizeof tail_other - 1);
    return 1 + length + sizeof tail_other - 1;
}

static void serve(int upstream) {
    unsigned char data[2048];
    struct sockaddr_in from;
    socklen_t length = sizeof from;
    ssize_t size = recvfrom(upstream, data, sizeof data - sizeof record, MSG_DONTWAIT, (struct sockaddr *)&from, &length);
    if (size < 12)
        return;
    memcpy(data + 2, "\x81\x80\0\1\0\1\0\0\0\0", 10);
    memcpy(data + size, record, sizeof record - 1);
    sendto(upstream, data, size + sizeof record - 1, 0, (struct sockaddr *)&from, length);
}

static int right_answer(const unsigned char *data, ssize_t size, long first, long sent, int local) {
    unsigned char wanted[128];
    if (size < 12)
        return 0;
    long number = data[0] << 8 | data[1];
    while (number + 65536 < sent)
        number += 65536;
    size_t length = question(wanted, first + number, local);
    return (size_t)size >= 12 + length && !memcmp(data + 12, wanted, length) && (data[3] & 15) == 0 &&
           data[6] == 0 && data[7] == 1;
}

int main(int count, char **arguments) {
    if (count != 7)
        return 2;
    int upstream = atoi(arguments[2]), local = atoi(arguments[6]);
    long total = atol(arguments[4]), first = atol(arguments[5]), sent = 0, right = 0, wrong = 0;
    double interval = 1.0 / atof(arguments[3]);
    struct sockaddr_in server = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1]))};
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int client = socket(AF_INET, SOCK_DGRAM, 0);
    if (client < 0 || connect(client, (struct sockaddr *)&server, sizeof server))
        return 1;
    struct pollfd sockets[] = {{.fd = client, .events = POLLIN}, {.fd = upstream, .events = POLLIN}};
    double began = now(), end = began + total * interval + 1.0, time;
    while (right + wrong < total && (time = now()) < end) {
        double due = began + sent * interval;
        if (sent < total && time >= due) {
            unsigned char data[140] = {0, 0, 1, 0, 0, 1};
            data[0] = sent >> 8 & 255;
            data[1] = sent & 255;
            send(client, data, 12 + question(data + 12, first + sent, local), 0);
            sent++;
            continue;
        }
        double wait = sent < total ? due - time : 0.1;
        struct timespec timeout = {.tv_sec = 0, .tv_nsec = (long)(wait * 1e9)};
        if (ppoll(sockets, 2, &timeout, NULL) <= 0)
            continue;
        if (sockets[1].revents)
            serve(upstream);
        if (sockets[0].revents) {
            unsigned char data[2048];
            ssize_t size = recv(client, data, sizeof data, MSG_DONTWAIT);
            if (size >= 0) {
                if (right_answer(data, size, first, sent, local))
                    right++;
                else
                    wrong++;
            }
        }
    }
    printf("%ld %ld\n", right, wrong);
    return 0;
}
